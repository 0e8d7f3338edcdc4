import base64

from reconciler.targets.kubernetes.diff import compare, compare_objects, secrets_of
from reconciler.values import Action, Change
from tests.reconciler.targets.kubernetes.foundry import CANARY, World
from tests.renderers.kubernetes_cases import ADAPTERS


def item(kind: str, name: str, **fields: object) -> dict[str, object]:
    metadata = {"name": name, "namespace": "n", "resourceVersion": "7", "uid": "u"}
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata, **fields}


def test_equal_values_have_no_difference() -> None:
    assert compare({"a": [1, {"b": 2}]}, {"a": [1, {"b": 2}]}, where="x") == ()


def test_a_container_is_compared_by_its_name_and_not_its_place() -> None:
    one = {"containers": [{"name": "a", "image": "1"}, {"name": "b"}]}
    other = {"containers": [{"name": "b"}, {"name": "a", "image": "2"}]}
    assert [str(c) for c in compare(one, other, where="x")] == [
        "x containers[a].image: 1 -> 2"
    ]


def test_what_the_server_keeps_for_itself_is_no_change() -> None:
    was, will = item("Service", "a"), item("Service", "a", status={"x": 1})
    will["metadata"] = {**dict(was["metadata"]), "resourceVersion": "8"}  # type: ignore[call-overload]
    assert compare_objects([was], [will]) == ()


def test_an_object_that_comes_or_goes_is_one_change() -> None:
    said = compare_objects([item("Service", "a")], [item("Service", "b")])
    assert [str(c) for c in said] == [
        "Service n/a : present -> absent",
        "Service n/b : absent -> present",
    ]


def test_a_secret_is_masked_by_value_wherever_it_turns_up() -> None:
    encoded = base64.b64encode(CANARY.encode()).decode()
    secret = item("Secret", "s", data={"value": encoded})
    pod = item("Pod", "p", spec={"env": f"token={CANARY}", "raw": encoded})
    known = secrets_of([secret])
    empty = [item("Secret", "s", data={}), item("Pod", "p", spec={})]
    said = str(compare_objects(empty, [secret, pod], secrets=known))
    assert "[secret]" in said
    assert CANARY not in said
    assert encoded not in said


async def test_three_layers_say_what_a_change_changes(world: World) -> None:
    before = world.unit("a", adapters=ADAPTERS[:1])
    live = await world.create(before)
    await world.stray(live.key)
    live = await world.look(live.key)
    after = world.unit("a", 1, adapters=ADAPTERS[:1])
    writes = world.writes
    said = await world.kubernetes.diff(
        Change(
            key=live.key,
            action=Action.CHANGE,
            unit=after,
            uid=live.uid,
            version=live.version,
        )
    )
    assert {c.path for c in said.intent} == {"command"}
    assert {c.where.split()[0] for c in said.rendered} == {"Deployment"}
    images = [c for c in said.live if c.path.endswith("[engine].image")]
    assert [c.before for c in images] == ["other:1"]
    assert CANARY not in str(said)
    assert world.writes == writes


async def test_the_diff_of_what_lives_is_empty(world: World) -> None:
    unit = world.unit("a")
    live = await world.create(unit)
    said = await world.kubernetes.diff(
        Change(
            key=live.key,
            action=Action.CHANGE,
            unit=unit,
            uid=live.uid,
            version=live.version,
        )
    )
    assert (said.intent, said.rendered, said.live) == ((), (), ())
