"""The interface of scenarios: what turns data into an ordered stream of steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from cl_framework.errors import UserError
from cl_framework.settings.recorded import Recorded
from cl_framework.streams.events import Step
from cl_framework.streams.inventory import Inventory
from cl_framework.streams.sample_list import ListedSource
from cl_framework.streams.samples import Samples
from cl_framework.streams.survey import Survey, Watch


class Scenario(Recorded, ABC):
    """Turns data into an ordered stream of steps.

    Attributes:
        class_names: Name of each class id.
    """

    class_names: Sequence[str]

    @abstractmethod
    def steps(self) -> Iterator[Step]:
        """Yield the steps in the order they happen; every call yields the same ones."""

    def unlock(self, key: bytes) -> None:  # nothing to do for streams that name no samples
        """Take the key under which a run's config hides the samples that its requests name; most name none."""

    def fingerprint(self) -> str:
        """Return a hash of the data behind the stream, for the run's manifest."""
        return ""

    def skip_unreadable(self) -> None:  # nothing to do for streams without files
        """Leave out samples that cannot be read; called before the data are first used."""

    def survey(self, watch: Watch) -> Survey:
        """Check every sample before anything is learned, without decoding any.

        Args:
            watch: Called with the progress.

        Raises:
            UserError: If the data as a whole cannot be used.
        """
        return Survey()

    def listing(self, watch: Watch) -> ListedSource | None:
        """List every sample of the stream, for the run's list; None if the scenario cannot.

        Args:
            watch: Called with the number of files read.
        """
        return None

    def relist(self, listed: ListedSource, key: bytes | None) -> None:
        """Take samples from the list that `listing` wrote, not from the data of today; called before the steps.

        Args:
            listed: The list; its ``root`` says where the data are.
            key: The run's key, by which what was forgotten is found while it is there.
        """
        raise UserError(f"{type(self).__name__} kept no list of its samples.")

    def renew(self, met: Collection[str]) -> Inventory:
        """Compare the list with today's data, and update it for samples that were never met.

        Args:
            met: Names of the experiences that the run has met.
        """
        return Inventory()

    def exam(self, data: str, names: Mapping[str, int]) -> tuple[Samples, dict[str, int]]:
        """Take other data as an exam, read as the stream's exams are.

        Args:
            data: What names them.
            names: The id of each class that is known, by its name.

        Returns:
            The samples of those classes; and how many others there are, by the name of their class.

        Raises:
            UserError: If they cannot be read, or the scenario takes none.
        """
        raise UserError(f"{type(self).__name__} cannot be evaluated on other data; leave out --data.")

    def read(self, files: Sequence[str]) -> Tensor:
        """Read input files as the test transform would, for predictions: ``(n, ...)``.

        Raises:
            UserError: If a file cannot be read, or the stream's inputs are not files.
        """
        raise UserError(f"{type(self).__name__} has no way to read files such as {files[0]}.")

    def inputs(self, given: Any) -> Tensor:
        """Make inputs of pictures or sentences held in memory, as the test transform would: ``(n, ...)``.

        Args:
            given: Arrays, tensors, pictures of Pillow, paths or sentences.

        Raises:
            UserError: If they are not what the stream holds.
        """
        raise UserError(f"{type(self).__name__} has no way to make inputs; give it a method `inputs(given)`.")


def checked_steps(scenario: Scenario) -> Iterator[Step]:
    """Yield the steps of a scenario, which may be a user's own.

    Raises:
        UserError: If it yields something else, or two events have one name.
    """
    kind, steps, met = type(scenario).__name__, scenario.steps(), set[str]()
    if not isinstance(steps, Iterable):
        raise UserError(f"{kind}.steps() returns a {type(steps).__name__}; yield a Step for each experience.")
    for step in steps:
        if not isinstance(step, Step):
            raise UserError(
                f"{kind}.steps() yields a {type(step).__name__}; yield Step(experience, exam), the exam being the test "
                "samples of its classes."
            )
        if step.event.name in met:
            raise UserError(f"{kind} has two events named {step.event.name!r}; give each a name of its own.")
        met.add(step.event.name)
        yield step


def checked_class_names(scenario: Scenario) -> Sequence[str]:
    """Return the name of each class id of a scenario, which may be a user's own.

    Raises:
        UserError: If it has none.
    """
    if not (hasattr(type(scenario), "class_names") or "class_names" in vars(scenario)):
        raise UserError(
            f"{type(scenario).__name__} has no class_names; set them to the name of each class id, as in "
            'self.class_names = ["cat", "dog"].'
        )
    return scenario.class_names
