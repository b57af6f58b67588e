"""Names of the exported bundles, and the card of the shipped student."""

from pathlib import Path

ZOO_NAMES = {
    "segmentation": "abdomen_mr_tskd_segmentation",
    "teacher_lora": "abdomen_mr_tskd_teacher_segmentation",
    "diffusion_synthesis": "abdomen_mr_tskd_diffusion_synthesis",
    "distillation": "abdomen_mr_tskd_distillation",
}
SHIPPED_CARD = Path(__file__).parent / "shipped_student.yaml"
