"""Convert a language model, or export that of a run: to a checkpoint, a Hugging Face directory, or adapters."""

import argparse
import textwrap
import time
from pathlib import Path

from qstar import files, paths
from qstar.cli import flags

CLASSIFIERS = ("token-classification", "sequence-classification")
EXAMPLES = """\
SOURCE is one of
  bundled:NAME       a small model that comes with qstar
  DIRECTORY          of a Hugging Face model, made by qstar-prepare, or a run of
                     qstar-train (its language model, adapters merged), or of
                     adapters in peft's layout (their model, with them merged)
  FILE.gguf          of the Llama, Mistral, Qwen 2 and 3 or Gemma 3 family:
                     pip install '.[gguf]'
  FILE.bin           of llama2.c in its legacy form (stories260K), with its
                     tokenizer.bin beside it
  hub:ORG/NAME       from the Hugging Face hub: pip install '.[hub]'

examples
  qstar-prepare hub:HuggingFaceTB/SmolLM2-135M models/smollm2
  qstar-prepare SmolLM2-135M-Instruct.Q4_1.gguf models/smollm2
  qstar-prepare models/smollm2 export/smollm2 --to huggingface --dtype bfloat16
  qstar-prepare runs/mine export/mine --to huggingface
  qstar-prepare runs/mine export/mine-lora --to adapter
  qstar-prepare runs/prm export/prm --to token-classification
  qstar-prepare runs/mine export/mine-thinking --to thinker
  qstar-prepare runs/star export/rationales --to trl
  qstar-prepare runs/mine export/mine --to huggingface --push ORG/NAME

Special tokens, chat template and generation config of SOURCE are copied too.
A run exported as `huggingface` or `adapter` has its delimiters and mixing head
next to it, in thinker.safetensors; as a `thinker` it thinks in transformers
too, slowly: the code that it needs is written next to the weights. A prepared
directory needs neither the network nor an extra, and is read wherever a model
is expected. Weights are kept in float32 in memory; --dtype is the type on disk.

Of self-training, reinforcement learning, labelling or a search of training
questions, `--to trl` writes what was sampled as data sets in TRL's formats:
prompt and completion, preferences, labels, steps.
"""


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        prog="qstar-prepare",
        description=textwrap.fill(__doc__, 80),
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    out.add_argument("source", metavar="SOURCE", help="the model to read")
    out.add_argument("out", metavar="OUT", type=Path, help="directory to write; must be new or empty")
    out.add_argument(
        "--to",
        choices=("checkpoint", "huggingface", "adapter", *CLASSIFIERS, "thinker", "trl"),
        metavar="KIND",
        default="checkpoint",
        help="what to write: a checkpoint of qstar (checkpoint, the default), a directory that transformers loads "
        "(huggingface), the low-rank adapters of a run alone, as a directory that peft loads (adapter), or a run's "
        f"reward model as a classifier of transformers ({' or '.join(CLASSIFIERS)}); a run with its "
        "thoughts, for transformers with trust_remote_code (thinker); or what a run sampled, as data sets in TRL's "
        "formats (trl)",
    )
    out.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="type of the stored weights")
    out.add_argument("--push", metavar="ORG/NAME", help="upload OUT to the Hugging Face hub, with a card of the run")
    out.add_argument("--private", action="store_true", help="make the repository a private one, where it is new")
    out.add_argument("--licence", metavar="ID", default="unknown", help="of the card, as the hub spells it: apache-2.0")
    return out


def pushed(source: str, out: Path, to: str, dtype: str, name: str, private: bool, licence: str) -> str:
    """Convert, write a card, upload both, and say what was done. Raises as `prepare` and `models.formats.hub`."""
    from qstar.models.formats import hub

    hub.ready(name)
    summary = prepare(source, out, to, dtype)
    if to != "trl":  # whose folder has a card
        from qstar.reports import cards

        files.write(out / cards.CARD, cards.model_card(source, name, to, licence))
    address = hub.push(out, name, "dataset" if to == "trl" else "model", private)
    return f"{summary}\npushed to {address}"


def prepare(source: str, out: Path, to: str, dtype: str) -> str:
    """Convert, and say what was done.

    Raises ValueError when `out` is not empty, or another process writes it; else as `runs.load_model`.
    """
    _check_empty(out)
    paths.check_folder("OUT", out)
    with files.locked(out):
        _check_empty(out)  # another process may have come and gone meanwhile
        return _converted(source, out, to, dtype)


def _check_empty(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(path.name != files.LOCK for path in out.iterdir())):
        raise ValueError(f"{out} exists and is not empty: name a new directory, or remove it first")


def _converted(source: str, out: Path, to: str, dtype: str) -> str:
    # Here and not above, so that --help and a full OUT answer at once.
    from qstar import runs
    from qstar.models import lm
    from qstar.runs import trl_export
    from qstar.training import console

    began = time.monotonic()
    if to == "trl":
        with console.phase(f"reading {source} and writing {out}"):
            counts = trl_export.save(out, source)
        return f"wrote {out}: " + ", ".join(f"{count:,} of {name}" for name, count in counts.items())
    if to == "adapter":
        with console.phase(f"reading {source} and writing {out}"):
            cfg = runs.save_adapter(out, source, dtype)
    elif to == "thinker":
        with console.phase(f"reading {source} and writing {out}"):
            run = runs.load_run(source)
            cfg = run.lm
            runs.save_thinker(out, run, dtype)
    elif to in CLASSIFIERS:
        with console.phase(f"reading {source} and writing {out}"):
            cfg = runs.save_classifier(out, source, to, dtype)
    else:
        with console.phase(f"reading {source}"):
            model = runs.load_model(source)
        cfg = model.lm
        with console.phase(f"writing {out}"):
            {"checkpoint": runs.save_model, "huggingface": runs.save_huggingface}[to](out, model, dtype)
    return (
        f"read {source}: {lm.definition(cfg).size:,} parameters, {cfg.layers} layers of width {cfg.width}, "
        f"{cfg.vocab:,} tokens\nwrote {out} ({to}, {dtype}) in {time.monotonic() - began:.1f} s"
    )


def main(arguments: list[str] | None = None) -> None:
    args = flags.parsed(parser(), arguments)
    try:
        if args.push:
            print(pushed(args.source, args.out, args.to, args.dtype, args.push, args.private, args.licence))
        else:
            print(prepare(args.source, args.out, args.to, args.dtype))
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"qstar-prepare: {error}") from error


if __name__ == "__main__":
    main()
