"""Show a run on one page for a browser: figures, the law, and responses token by token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from entropyctl import commands
from entropyctl.commands import AllowMismatch, Json, Quiet

if TYPE_CHECKING:
    from collections.abc import Callable

    from entropyctl.report.sources import Found
    from entropyctl.show.tokenizer import Tokenizer

Sources = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="RUN|FILE...",
        help="Directory of a run, or tables: metrics, evals, and tables of responses, laid over one another by key.",
        show_default=False,
    ),
]
Page = Annotated[str | None, typer.Option("-o", "--output", metavar="FILE", help="HTML file to write.")]
TokenizerOf = Annotated[
    str | None,
    typer.Option(metavar="DIR", help="Directory of a tokenizer.json, to show tokens as text; default: the run's own."),
]
Shown = Annotated[int, typer.Option(min=0, metavar="N", help="Responses that the page shows, at most.")]


def run(argv: list[str]) -> int:
    """The `entropyctl report` command."""
    return commands.run("report", report, argv)


def report(
    inputs: Sources = None,
    output: Page = None,
    tokenizer: TokenizerOf = None,
    responses: Shown = 600,
    allow_mismatch: AllowMismatch = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show a run on one page for a browser: figures, the law, and responses token by token.

    The page is one file that holds all it shows, scripts too, and forbids the browser every request.

    It has entropy and reward against step; predicted against realised change of the entropy; R against e^H with the
    fitted law and its band; pass@k and the distribution of pass rates; S* against probability with what the mask did;
    cov(A, S* - E[S]) by difficulty; the histogram of entropies with the forking tokens; and responses whose tokens are
    coloured by H, S*, S* - E[S], advantage, weight or mismatch. What its data do not bring says what would bring it.

    A run is a directory that holds metrics/, evals/, policy/, and tables as they are or in step-*/; of tables with the
    same columns for the same rows those are taken that `update` read. Memory is that of a step. The same inputs make
    the same bytes.

    Of many responses a part is shown: --responses N of them, equally many of each step and outcome at random, a fifth
    of them the extremes of entropy, length, effect on the entropy, mismatch and masking.
    """
    from entropyctl.errors import UsageError
    from entropyctl.progress import progress
    from entropyctl.report.build import build
    from entropyctl.report.library import plotly
    from entropyctl.report.sources import find
    from entropyctl.reporting import report as say
    from entropyctl.table.atomic import write_text

    if not inputs:
        raise UsageError("no input; name the directory of a run, or its tables")
    if (path := commands.required("-o", output)) == "-":
        raise UsageError("-o -: a report is a file; name one, such as report.html")
    library, allow = plotly(), tuple(allow_mismatch or ())
    found = find(inputs, allow)
    with progress("responses", found.rows, quiet=quiet, unit="responses") as advance:
        made = build(found, library, responses, _tokenizers(found, tokenizer, allow), allow, advance)
    write_text(path, made.html)
    summary = {"file": path, "bytes": len(made.html.encode()), **made.summary}
    say("report", summary, as_json=json, quiet=quiet, stdout_is_data=False)


def _tokenizers(found: Found, named: str | None, allow: tuple[str, ...]) -> Callable[[str | None], Tokenizer | None]:
    """The tokenizer that was named, or the run's own, if it is the one that sampled."""

    def tokenizer_for(sampled: str | None) -> Tokenizer | None:
        from pathlib import Path

        from entropyctl.errors import MismatchError
        from entropyctl.policy.versions import Policy
        from entropyctl.show.tokenizer import open_tokenizer

        place = found.tokenizer if named is None else Path(named)
        texts = None if place is None else open_tokenizer(str(place))
        if place is None or texts is None:
            return None
        if sampled not in (None, Policy(place, 0).tokenizer_digest) and "tokenizer" not in allow:
            raise MismatchError(
                f"{place}: is not the tokenizer that sampled these responses; name that with --tokenizer, or say "
                "--allow-mismatch tokenizer"
            )
        return texts

    return tokenizer_for
