"""lm-evaluation-harness with models of qstar: its own command line, with the model `qstar` beside the others.

    python -m qstar.cli.harness_command --model qstar --model_args run=runs/mine,thoughts=greedy --tasks arc_easy

`run` is a run or any model that qstar reads; `thoughts` is none or greedy. Needs `pip install '.[harness]'`.
"""

import functools

from qstar.cli import entry


@functools.cache  # the harness refuses a second class of this name
def register() -> type:
    """Make `qstar` a model of the harness. Returns its class. Raises ImportError where the extra is missing."""
    try:
        from lm_eval.api import model, registry
    except ImportError as error:
        raise ImportError('lm-evaluation-harness is missing: pip install ".[harness]"') from error

    from qstar import runs
    from qstar.data.tokenizer import Tokenizer
    from qstar.evals.harness import Asked
    from qstar.policy import Policy
    from qstar.tasks import conversation

    class QStar(model.LM):
        """A policy of qstar as the harness asks it."""

        def __init__(self, run: str | Policy, thoughts: str = "none", batch_size: int | str = 8, **_):
            super().__init__()
            if not isinstance(run, Policy):
                run = runs.load_run() if run == "latest" else runs.load_model(run)
            self.asked = Asked(run, thoughts, 8 if batch_size == "auto" else int(batch_size))

        @property
        def tokenizer(self) -> Tokenizer:
            return self.asked.policy.tokenizer

        @property
        def tokenizer_name(self) -> str:
            return f"qstar-{self.asked.policy.fingerprint}"

        def chat_template(self, chat_template: bool | str = False) -> str:
            return self.tokenizer.marks.template or ""

        def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            """As a prompt of qstar, which its tokenizer writes in the model's template."""
            return conversation.spelled(chat_history)

        def loglikelihood(self, requests: list) -> list[tuple[float, bool]]:
            return self.asked.loglikelihood([request.args for request in requests])

        def loglikelihood_rolling(self, requests: list) -> list[float]:
            return self.asked.loglikelihood_rolling([request.args[0] for request in requests])

        def generate_until(self, requests: list) -> list[str]:
            return self.asked.generate_until([request.args for request in requests])

    return registry.register_model("qstar")(QStar)


def main() -> None:
    with entry.errors():
        register()
        from lm_eval.__main__ import cli_evaluate

        cli_evaluate()


if __name__ == "__main__":
    main()
