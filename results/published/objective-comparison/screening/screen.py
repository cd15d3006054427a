"""The looks on dev that v1's weights were chosen by: one short run an arm, scored with the gold before every token.

    OMP_NUM_THREADS=1 python results/published/objective-comparison/screening/screen.py [ARM ...]

trains what is missing below results/screening (750 steps of 16 records; 6 to 10 minutes each on one core) and prints
rows of screening.csv, with the first teacher. Those of screening-2.csv, with today's, are of

    ... screen.py --records 10000 --steps 625 --seed 1 --work results/screening-2 [ARM ...]

and so on for seed 2; three-epochs.csv is of finished runs,

    ... screen.py results/objective-comparison/runs/v1-1 ...

In the first two v1 has no gating. Exact: the share of dev records of which every token is the student's first choice,
which is what greedy decoding writes right. Probability: the mean over records of what the student gives the whole gold.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import torch

from distillctl.core.config import load_config
from distillctl.core.losses.term import IGNORE_INDEX
from distillctl.core.materials import make_encoder, read_corpus
from distillctl.core.models.loading import load_seq2seq, load_tokenizer
from distillctl.core.progress import SilentReporter
from distillctl.core.teacher.batching import batches, padded_batch

NO_SEMANTIC = {"semantic.weight": "0"}
JSD_ALONE = {**NO_SEMANTIC, "focal.weight": "0", "jsd.weight": "1"}
CROSS_ENTROPY = {"focal.alpha": "1", "focal.gamma": "0"}
UNGATED = {"jsd.gating": "false"}  # as v1 was when these looks were taken; "now" is then
FIRST = {**UNGATED, "focal.weight": "0.3", "jsd.weight": "[0.7,0.2]", "max_auxiliary_share": "0.3"}
NOW = {**UNGATED, "focal.weight": "0.05", "jsd.weight": "[1.0,0.7]", "max_auxiliary_share": "0.1"}
ARMS: dict[str, tuple[str, dict[str, str]]] = {
    "trident": ("trident", {}),
    "plain-ce": ("trident", {**NO_SEMANTIC, **CROSS_ENTROPY, "focal.weight": "1", "jsd.weight": "0"}),
    "jsd": ("trident", JSD_ALONE),
    "jsd-forward": ("trident", {**JSD_ALONE, "jsd.mixture": "0.02"}),
    "jsd-reverse": ("trident", {**JSD_ALONE, "jsd.mixture": "0.9"}),
    "jsd-and-ce": ("trident", {**JSD_ALONE, **CROSS_ENTROPY, "focal.weight": "0.1"}),
    "v1-first": ("loss-improvements-v1", FIRST),
    "v1": ("loss-improvements-v1", NOW),
    "v1-falling-to-0.5-share-0.3": (
        "loss-improvements-v1",
        {**NOW, "jsd.weight": "[1.0,0.5]", "max_auxiliary_share": "0.3"},
    ),
    "v1-gating": ("loss-improvements-v1", {**NOW, "jsd.gating": "true"}),
    "v1-temperature-2": ("loss-improvements-v1", {**NOW, "jsd.temperature": "2"}),
    "v1-temperature-0.5": ("loss-improvements-v1", {**NOW, "jsd.temperature": "0.5"}),
    "v1-critical-4": ("loss-improvements-v1", {**NOW, "critical_tokens.weight": "4"}),
    "v1-no-focal": ("loss-improvements-v1", {**NOW, "focal.weight": "0"}),
    "v1-ce-fixed": ("loss-improvements-v1", {**NOW, "focal.gamma": "0", "balance": "fixed"}),
}
COMMON = (
    "data.sample_seed=1",
    "logging.steps=5",
    "logging.gradient_steps=50",
    "logging.tensorboard=false",
    "evaluation.limit=16",
    "evaluation.on_epoch_end=false",
    "checkpoints.save_steps=null",
)


def main() -> None:
    """Trains and scores the arms that were asked for, all by default."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "arms", nargs="*", metavar="ARM", help=f"{', '.join(ARMS)}; or the directory of a finished run, to score it"
    )
    parser.add_argument("--records", type=int, default=24_000, help="of which the steps are drawn")
    parser.add_argument("--steps", type=int, default=750)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("results/screening"))
    options = parser.parse_args()
    print("arm,seed,records,cross_entropy,token_accuracy,exact,probability")
    for arm in options.arms or ARMS:
        folder = options.work / f"{arm}-{options.seed}" if arm in ARMS else Path(arm)
        if not (folder / "student").exists():
            if arm not in ARMS:
                parser.error(f"{arm} is no arm, and there is no student in such a directory")
            train(arm, folder, options)
        name, _, seed = folder.name.rpartition("-")
        print(name, seed, *score(folder / "student"), sep=",", flush=True)


def train(arm: str, folder: Path, options: argparse.Namespace) -> None:
    """One run, scored by nothing but its log."""
    config, objective = ARMS[arm]
    settings = [*COMMON, *(f"objective.{name}={value}" for name, value in objective.items())]
    settings += [f"data.max_train_samples={options.records}", f"training.max_steps={options.steps}"]
    command = ["train", "--config", config, "--seed", str(options.seed), "--output-dir", str(folder)]
    sets = [part for setting in settings for part in ("--set", setting)]
    subprocess.run([sys.executable, "-m", "distillctl", *command, *sets], check=True, stdout=sys.stderr)


@torch.no_grad()
def score(student: Path) -> tuple[int, str, str, str, str]:
    """Of all of dev, teacher-forced, in bf16."""
    config = load_config()
    model = load_seq2seq(str(student), "student").eval()
    records = read_corpus(config, SilentReporter()).records("dev")
    examples = make_encoder(config, load_tokenizer(str(student), "student")).encode(records).examples
    nats, right, tokens = [], [], []
    for chosen in batches(examples, model.config.vocab_size):
        inputs, mask, labels = padded_batch(chosen, model.config.pad_token_id, torch.device("cpu"))
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(input_ids=inputs, attention_mask=mask, labels=labels).logits.float()
        valid = labels != IGNORE_INDEX
        loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
        nats.append(loss.sum(dim=1))
        right.append(((logits.argmax(dim=-1) == labels) & valid).sum(dim=1))
        tokens.append(valid.sum(dim=1))
    nat, correct, count = torch.cat(nats), torch.cat(right), torch.cat(tokens)
    return (
        len(examples),
        f"{nat.sum() / count.sum():.4f}",
        f"{100 * correct.sum() / count.sum():.2f}",
        f"{100 * (correct == count).double().mean():.2f}",
        f"{100 * nat.neg().exp().mean():.2f}",
    )


if __name__ == "__main__":  # the corpus is mined in processes that import this file
    main()
