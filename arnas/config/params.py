"""The settings of a run as one typed tree, and the checks between its branches."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Annotated

from pydantic import Field, StringConstraints, ValidationError, model_validator

from arnas.attacks.threat import CheckedThreat, check_epsilon
from arnas.data.options import DatasetOptions
from arnas.evaluation.options import BlackboxOptions, WhiteboxOptions
from arnas.reporting.options import ReportOptions, ReproductionOptions
from arnas.runtime.errors import UserError
from arnas.runtime.options import Options
from arnas.search.options import SearchedNetworkOptions, SearchOptions, SupernetOptions
from arnas.spaces.layout import plan_cells
from arnas.training.options import NetworkOptions, RetrainOptions
from arnas.training.registry import loss_entry

Name = Annotated[str, StringConstraints(pattern="^[a-z][a-z0-9_]{0,99}$")]
"""Names become parts of paths: lower-case letters, digits and underscores, 100 at most."""
Seed = Annotated[int, Field(ge=0, lt=10**18)]


class RunOptions(Options):
    """Datasets, searches, networks and seeds of the run. Only aggregates depend on this block."""

    datasets: list[Name]
    """Names of `data` that are prepared; all datasets below are among them."""
    search_dataset: Name
    """Dataset that every search runs on."""
    searches: list[Name]
    """Names of `searches`; each is searched, and its network trained, once for each seed."""
    searches_on: list[Name]
    """Datasets that the searched networks are trained and attacked on."""
    networks: list[Name]
    """Names of `networks`."""
    networks_on: list[Name]
    """Datasets that they are trained and attacked on."""
    controls: list[Name] | None = None
    """Networks that serve as undefended controls, which the attacks must break; null for those
    whose loss does not train for robustness."""
    seeds: Annotated[list[Seed], Field(min_length=1)]
    """One full replicate each: search, training, attacks."""


class Params(Options):
    """The settings of a run: `params.yaml`."""

    name: Name
    """Names the run; results lie under `results/<name>`."""
    run: RunOptions
    data: dict[Name, DatasetOptions]
    """Datasets by name."""
    threat: dict[Name, CheckedThreat]
    """Threat model of each dataset."""
    supernet: SupernetOptions
    searches: dict[Name, SearchOptions]
    """Searches by name; the name is also that of the network found."""
    networks: dict[Name, NetworkOptions]
    """Networks of the zoo by name, the undefended control among them."""
    retrain: dict[Name, RetrainOptions]
    """Training recipe of each dataset."""
    whitebox: WhiteboxOptions
    blackbox: BlackboxOptions
    report: ReportOptions
    reproduction: ReproductionOptions = ReproductionOptions()

    @model_validator(mode="after")
    def _branches_agree(self) -> Params:
        """Check that every name in one branch exists in the branch it points to."""
        run = self.run
        trained = [*run.searches_on, *run.networks_on]
        used = [run.search_dataset, *trained]
        _known("run.datasets", "datasets", run.datasets, "data", self.data)
        _known("run", "datasets", used, "run.datasets", run.datasets)
        _known("run", "datasets", used, "threat", self.threat)
        _known("run", "datasets trained on", trained, "retrain", self.retrain)
        _known("run.searches", "searches", run.searches, "searches", self.searches)
        _known("run.networks", "networks", run.networks, "networks", self.networks)
        for field in ("datasets", "searches", "searches_on", "networks", "networks_on", "seeds"):
            values = getattr(run, field)
            if len(set(values)) < len(values):
                raise ValueError(f"run.{field} is {values}: name each entry once")
        if not ((run.searches and run.searches_on) or (run.networks and run.networks_on)):
            raise ValueError(
                "run names no network to train: give run.searches and run.searches_on, or "
                "run.networks and run.networks_on"
            )
        networks = [*self.networks, *self.searches]
        _known("run", "controls", run.controls or [], "networks", networks)
        where = "reproduction.orderings"
        for rule in self.reproduction.orderings:
            _known(where, "datasets", [rule.dataset], "data", self.data)
            _known(where, "networks", [rule.better, rule.worse], "networks", networks)
            measured = ["clean", *self.whitebox.attacks, "union"]
            _known(where, "attacks", [rule.attack], "whitebox.attacks", measured)
            if rule.better == rule.worse:
                raise ValueError(f"{where} compares {rule.better} with itself: name two networks")
        if shared := sorted(set(self.searches) & set(self.networks)):
            raise ValueError(
                f"'{shared[0]}' is both a search and a network: a search's name is also the name "
                "of its network, so rename one of them"
            )
        if taken := {"all", "square"} & {*self.networks, *self.searches}:
            raise ValueError(
                f"'{min(taken)}' names a network or a search, but tables use it themselves: choose "
                "another name"
            )
        if self.whitebox.autoattack_datasets is not None:
            where, chosen = "whitebox.autoattack_datasets", self.whitebox.autoattack_datasets
            _known(where, "datasets", chosen, "data", self.data)
        zoo, found = product(run.networks_on, run.networks), product(run.searches_on, run.searches)
        for dataset, name in (*zoo, *found):
            self.recipe(dataset, name)
        for name in (name for name in run.datasets if name in self.threat):
            _check_curve(self.threat[name].norm, self.whitebox.epsilon_curve)
        if self.name == "tables":
            raise ValueError("name is 'tables', which results/ uses itself: choose another name")
        for name, search in self.searches.items():
            _check_search(name, search, self.supernet)
        return self

    def controls(self) -> set[str]:
        """Return the names of the networks that serve as undefended controls."""
        if self.run.controls is not None:
            return set(self.run.controls)
        names = (*self.networks, *self.searches)
        return {name for name in names if not loss_entry(self.network(name).loss.name).defended}

    def network(self, name: str) -> NetworkOptions | SearchedNetworkOptions:
        """Return the settings of a network, which may be that of a search."""
        return self.networks.get(name) or self.searches[name].network

    def recipe(self, dataset: str, network: str) -> RetrainOptions:
        """Return the recipe of a network on a dataset: its own settings over the dataset's."""
        own, recipe = self.network(network).recipe, self.retrain[dataset]
        if own is None:
            return recipe
        try:
            return own.over(recipe)
        except ValidationError as error:
            where = (
                f"networks.{network}" if network in self.networks else f"searches.{network}.network"
            )
            problem = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise ValueError(f"{where}.recipe over retrain.{dataset}: {problem}") from None


def _known(where: str, what: str, names: Iterable[str], block: str, known: Iterable[str]) -> None:
    """Raise unless each name is a key of the block."""
    options = list(known)
    for name in names:
        if name not in options:
            raise ValueError(
                f"{where} names {name!r} among its {what}, but {block} has "
                f"{', '.join(options) or 'no entries'}: add {name} there, or drop it here"
            )


def _check_curve(norm: str, budgets: Iterable[float | str]) -> None:
    """Raise unless every budget of the curve of accuracy against epsilon fits the norm."""
    for budget in budgets:
        try:
            check_epsilon(norm, budget)
        except UserError as error:
            raise ValueError(f"whitebox.epsilon_curve: {error}") from None


def _check_search(name: str, search: SearchOptions, supernet: SupernetOptions) -> None:
    """Raise unless a search's epochs fit the schedule and every kind has a cell."""
    where = f"searches.{name}"
    present = {p.kind for p in plan_cells(supernet.cells, supernet.channels, search.space)}
    if idle := sorted(set(search.space.kinds) - present):
        raise ValueError(
            f"{where}.space.kinds has '{idle[0]}', but no cell is of this kind when supernet.cells "
            f"is {supernet.cells}: raise supernet.cells, 6 is always enough"
        )
    total = search.adversarial.epochs + search.multiobjective.epochs
    if not total:
        raise ValueError(f"{where} has no epochs in either stage, so nothing would be searched")
    if total > supernet.weights.schedule_epochs:
        raise ValueError(
            f"{where} has {total} epochs in both stages, but supernet.weights.schedule_epochs is "
            f"{supernet.weights.schedule_epochs}: raise it to at least {total}"
        )
    if search.derive.epoch != "last" and search.derive.epoch > total:
        raise ValueError(
            f"{where}.derive.epoch is {search.derive.epoch}: allowed are 0 to {total} and last"
        )
    if search.adversarial.warmup_epochs > search.adversarial.epochs:
        raise ValueError(
            f"{where}.adversarial.warmup_epochs is {search.adversarial.warmup_epochs}: allowed "
            f"are 0 to its epochs, {search.adversarial.epochs}"
        )
