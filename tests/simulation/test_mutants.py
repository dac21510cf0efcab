"""The mutations that the simulation must notice fit the code as it is; that it notices them shows `make mutate`."""

import pytest

from sandbox.simulation.mutants import MUTATIONS, ROOT, Mutation, broken


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_each_mutation_finds_its_one_place_in_the_code_and_leaves_code_that_runs(mutation: Mutation) -> None:
    text = broken(mutation, ROOT)
    assert text is not None, f"{mutation.file} has not {mutation.old!r} in one place: the mutation must follow the code"
    compile(text, mutation.file, "exec")


def test_mutations_have_names_of_their_own_and_change_something() -> None:
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS)
    assert all(mutation.old != mutation.new for mutation in MUTATIONS)
