"""Networks of teachers and students: encoders, decoders, LoRA, pre-trained weights."""
