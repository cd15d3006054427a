"""What a step measured, as columns of step_metrics.csv and as a line beside the progress bar."""

from __future__ import annotations

from distillctl.core.losses.step_report import StepReport

Row = dict[str, float | int | None]
"""One of step_metrics.csv, by column; None where nothing was measured."""


def report_columns(report: StepReport) -> dict[str, float | None]:
    """A step report as columns of step_metrics.csv."""
    columns: dict[str, float | None] = {"loss_total": report.loss_total}
    for name in report.losses:
        columns |= {
            f"loss_{name}": report.losses[name],
            f"scale_{name}": report.scales[name],
            f"weight_{name}": report.weights[name],
            f"weighted_{name}": report.weighted[name],
            f"grad_norm_{name}": report.grad_norms[name] if report.grad_norms is not None else None,
        }
    columns |= {f"grad_cos_{a}_{b}": cosine for (a, b), cosine in report.grad_cosines.items()}
    return columns | {
        "grad_norm_primary": report.grad_norm_primary,
        "grad_norm_auxiliary": report.grad_norm_auxiliary,
        "auxiliary_clip": report.auxiliary_clip,
    }


def progress_note(row: Row) -> str:
    """The losses and the speed of a row, in one short line."""
    losses = " ".join(
        f"{name.removeprefix('loss_')} {value:.3f}"
        for name, value in row.items()
        if name.startswith("loss_") and name != "loss_total" and value is not None
    )
    return f"loss {row['loss_total']:.3f} ({losses})  {row['tokens_per_second']:.0f} tokens/s"


def rebalance_note(step: int, name: str, ratio: float, scale: float | None) -> str:
    """One line for the moment when the balance begins to correct a term's scale."""
    return (
        f"step {step:,}: the scaled {name} loss is {ratio:.2g} times its reference's; "
        f"scale_{name} moves from {scale:.3g} until they are alike"
    )
