"""The distillation objective: one file per term, the registry, the composite, schedules and the share limit.

Imports torch and :mod:`distillctl.core.errors` only. Every loss is a pure function plus a thin term that
returns ``TermSum(sum, count)``; nothing here divides a term but
:class:`~distillctl.core.losses.objective.Objective`, once per optimizer step.
"""
