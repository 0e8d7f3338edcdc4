"""A cluster's life, by the real Terraform and AWS provider, at an emulated AWS.

Real: terraform, hashicorp/aws, our module, the target. Emulated: the cloud, so no
machine ever starts and every call answers at once.
"""

import pytest

from reconciler.values import Health, Key, Presence
from schemas.errors import PermanentError
from tests.reconciler.targets.canary import hits
from tests.reconciler.targets.contract import change, create, delete, look, silent
from tests.reconciler.targets.terraform.aws import SECRET
from tests.reconciler.targets.terraform.conftest import H100, SYSTEM, MakeWorld

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


async def test_a_cluster_is_made_strays_is_kept_grows_and_is_deleted(
    aws_world: MakeWorld,
) -> None:
    world = aws_world()
    target, said = world.target, []
    unit = world.unit(deletionPolicy="retain")

    def note(key: Key, message: str) -> None:
        said.append(message)

    # Made from the plan that the dry run saved.
    await target.dry_run(create(unit))
    made = await target.apply(create(unit), note)
    assert (made.digest, made.health) == (unit.digest, Health.SERVABLE)
    assert any("aws_eks_cluster.this: Creation complete after" in line for line in said)
    assert not any("planning" in line for line in said)
    # The state says where it answers, and holds nothing by which one gets in.
    state = await target.backend._ask(
        "read", "state", "state", "pull", workspace="default.prod"
    )
    assert b"certificate_authority" in state.out
    for key in (b"client-key", b"client_key", b"kube_config", b"PRIVATE KEY"):
        assert key not in state.out
    outputs = await target.outputs(unit.key)
    assert str(outputs["cluster"]["endpoint"]).startswith("https://")  # type: ignore[index]

    # Changed by hand: seen and named, and nothing else is, so a plan of what was
    # just applied is empty but for it.
    eks = world.aws.client("eks")
    (group,) = eks.list_nodegroups(clusterName="prod")["nodegroups"]
    eks.update_nodegroup_config(
        clusterName="prod", nodegroupName=group, scalingConfig={"desiredSize": 5}
    )
    world.look_again()
    strayed = await look(target, unit.key)
    assert strayed.health is Health.DEGRADED
    assert strayed.detail.endswith(
        'by hand: update module.cluster.aws_eks_node_group.fixed["system"]'
    )
    assert strayed.uid == made.uid
    assert strayed.digest != unit.digest

    # Retained: neither deleted nor replaced. Another range of addresses means another
    # VPC, and so another cluster.
    with pytest.raises(PermanentError, match="deletionPolicy is retain"):
        await target.dry_run(delete(strayed))
    other = world.unit(deletionPolicy="retain", network={"cidr": "10.9.0.0/16"})
    with pytest.raises(PermanentError, match=r"replace .*aws_vpc\.this"):
        await target.dry_run(change(other, strayed))

    # Brought back, a GPU pool more, one version up, and free to be deleted, in one
    # change that keeps the cluster. (Each change pays the provider's start twice.)
    bigger = world.unit(version="1.33", nodePools=[SYSTEM, H100])
    summary = await target.summary(change(bigger, strayed))
    assert not summary.fatal
    assert summary.counts["delete"] == summary.counts["replace"] == 0
    grown = await target.apply(change(bigger, strayed), silent)
    assert (grown.uid, grown.digest) == (made.uid, bigger.digest)
    assert (grown.detail, grown.health) == ("", Health.SERVABLE)
    assert eks.describe_cluster(name="prod")["cluster"]["version"] == "1.33"
    found = eks.describe_nodegroup(clusterName="prod", nodegroupName=group)
    assert found["nodegroup"]["scalingConfig"]["desiredSize"] == 2

    # What an autoscaler wrote is its own (law 7).
    (scaled,) = set(eks.list_nodegroups(clusterName="prod")["nodegroups"]) - {group}
    eks.update_nodegroup_config(
        clusterName="prod", nodegroupName=scaled, scalingConfig={"desiredSize": 2}
    )
    world.look_again()
    assert (await look(target, unit.key)).digest == bigger.digest

    # Deleted, and nothing stays.
    await target.dry_run(delete(grown))
    await target.delete(delete(grown), silent)
    assert world.aws.left() == []
    assert (await look(target, unit.key)).presence is Presence.ABSENT
    assert hits(world.folder, SECRET, said) == []


async def test_what_the_account_may_not_have_stops_the_plan(
    aws_world: MakeWorld,
) -> None:
    limits = {
        "EMULATOR_QUOTA_VCPUS": "200",
        "EMULATOR_NOT_OFFERED": "g6e.xlarge",
    }
    world = aws_world(**limits)
    rare = {"name": "l40s", "instanceType": "g6e.xlarge", "count": 1}
    unit = world.unit(nodePools=[SYSTEM, H100, rare])
    with pytest.raises(PermanentError, match="up to 384 vCPUs") as caught:
        await world.target.dry_run(create(unit))
    assert "No zone of the cluster offers g6e.xlarge" in caught.value.args[0]
    assert "quota" in caught.value.hint
    assert world.aws.left() == []
    assert (await look(world.target, unit.key)).presence is Presence.ABSENT
