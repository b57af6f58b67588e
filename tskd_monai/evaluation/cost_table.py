"""Markdown table of the size of methods and the cost of their training runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from tskd_monai.evaluation.method_results import Result, has_seeds
from tskd_monai.evaluation.method_tables import by_method, markdown_table


def cost_table(results: Sequence[Result], reference: str, costs: Mapping[str, Any]) -> list[str]:
    """Returns the lines of a table with the size of each method's network and the cost of its training run.

    Args:
        results: results of one dataset.
        reference: method whose time per step is the unit of the others'.
        costs: `seconds_per_step` and `peak_mb` by method, or empty.
    """
    counted = "trainable_parameters" if _has_trainable_parameters(results) else "parameters"
    heads = ["method", counted.replace("trainable_", "trained ")]
    heads += ["time a step", "peak memory"] if costs else []
    is_counted = has_seeds(results)
    heads += ["10^12 multiply-adds: student", "teachers", "refined targets"] if is_counted else []
    is_timed = any(map(_has_cpu_seconds, results))
    heads += ["core-minutes, all stages"] if is_timed else []
    rows = []
    for name, of_method in by_method(results).items():
        row = [f"`{name}`", f"{of_method[0]['stages'][-1]['results'][counted]:,}"]
        if costs:
            row += _cost(costs[name], costs[reference])
        if is_counted:
            row += [f"{_multiply_adds(of_method[0], part) / 1e12:.3g}" for part in ("student", "teacher", "targets")]
        if is_timed:
            timed = [_core_minutes(result) for result in of_method if _has_cpu_seconds(result)]
            row.append(f"{fmean(timed):.1f}" if timed else "with a GPU")
        rows.append(row)
    return markdown_table(heads, rows)


def _has_trainable_parameters(results: Sequence[Result]) -> bool:
    return all("trainable_parameters" in result["stages"][-1]["results"] for result in results)


def _has_cpu_seconds(result: Result) -> bool:
    """Returns whether everything ran on the CPU and its time was recorded."""
    stages = result["stages"]
    return all("cpu_seconds" in stage and not stage.get("gpu") for stage in stages) and not result["machine"].get("gpu")


def _multiply_adds(result: Result, part: str) -> int:
    """Returns the multiply-adds of a method's training runs of a kind, or of the stages that make targets."""
    counted = [stage for stage in result["stages"] if "multiply_adds" in stage]
    parts = [stage["kind"] if "steps" in stage["multiply_adds"] else "targets" for stage in counted]
    return sum(stage["multiply_adds"]["total"] for stage, of in zip(counted, parts, strict=True) if of == part)


def _core_minutes(result: Result) -> float:
    return float(sum(stage["cpu_seconds"] for stage in result["stages"]) / 60)


def _cost(cost: Mapping[str, Any], reference: Mapping[str, Any]) -> list[str]:
    return [f"{cost['seconds_per_step'] / reference['seconds_per_step']:.2f}x", f"{cost['peak_mb']:,.0f} MB"]
