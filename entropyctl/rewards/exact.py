"""The final answer equals the reference, as text or as a number."""

from __future__ import annotations

from entropyctl.rewards._answers import marked_answer, number, reference
from entropyctl.rewards._grade import UNPARSABLE, Grade, graded


def exact(response: str, answer: str | None) -> Grade:
    r"""The final answer equals the reference, as text or as a number.

    The final answer is the content of the last `\boxed{...}`; without a box, what follows the last `####` on its
    line; without that, the last line that is not empty. A reference that is a worked solution is read in the same
    way, else taken whole.

    correct (1): both are the same text, or the same number written as digits (`1,000` = `1000.0`, `0.5` = `1/2`);
    a response without marks is also correct when the whole of it is the reference.
    wrong (0): anything else. unparsable (0): the response is empty, or its last box is empty or not closed.

    Args:
        response: what the model wrote.
        answer: the reference.

    Raises:
        InputError: there is no reference.
    """
    wanted = reference(answer)
    found = marked_answer(response)
    if found is None:
        found = response.strip()
        if found != wanted:
            found = found.rpartition("\n")[2].strip()
    if not found:
        return UNPARSABLE
    value = number(found)
    return graded(found == wanted or (value is not None and value == number(wanted)), found)


# Needs no imports and time in proportion to the text, so no worker has to be asked.
quick = exact
