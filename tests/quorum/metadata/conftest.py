"""A cluster's metadata without a cluster: decisions are applied at once, and held against what must always be."""

from __future__ import annotations

from dataclasses import replace

import pytest
from zmqbroker.quorum import decisions, elections, node_decisions, partition_decisions, reassignment
from zmqbroker.quorum.image import MetadataImage, apply, as_records
from zmqbroker.settings import broker_config
from zmqbroker.transport import cluster_messages as c
from zmqbroker.transport import peer_messages as p
from zmqbroker.transport.config_messages import TOPIC_RESOURCE
from zmqbroker.transport.messages import CreateTopicsRequest, NewTopic


class Metadata:
    """The controller's image, the processes of the nodes as they say themselves, and the requests in short."""

    def __init__(self, nodes=3, racks=(), **settings):
        self.config = broker_config(settings)
        self.image = MetadataImage()
        self.starts = 0
        for node in range(1, nodes + 1):
            self.start(node, rack=racks[node - 1] if racks else f"r{node}")

    def commit(self, decided):
        """Apply a decision, or the records of one; its reply."""
        records, reply = decided if isinstance(decided, decisions.Decision) else (decided, None)
        before, self.image = self.image, apply(self.image, records, TOPIC_RESOURCE)
        check_image(self.image, self.config)
        check_step(before, self.image)
        return reply

    # ---- nodes

    def register(self, node, *, clean=True, alive=False, **given):
        self.starts += 1
        before = self.image.nodes.get(node)
        fields = {
            "cluster_id": "c",
            "node_id": node,
            "directory_id": before.directory_id if before else f"d{node}",
            "incarnation": f"i{self.starts}",
            "host": "h",
            "port": 9000 + node,
            "rack": before.rack if before else f"r{node}",
            "clean": clean,
            "min_version": 0,
            "max_version": 0,
            "previous_epoch": before.epoch if before and clean else -1,
            **given,
        }
        request = p.RegisterNodeRequest(**fields)
        return self.commit(node_decisions.register_node(self.image, request, self.config, alive=alive)).node_epoch

    def beat(self, node, *, offset=None, epoch=None, want_shut_down=False):
        epoch = self.image.nodes[node].epoch if epoch is None else epoch
        offset = self.image.end_offset if offset is None else offset
        request = p.HeartbeatNodeRequest(node, epoch, offset, want_shut_down)
        return self.commit(node_decisions.heartbeat(self.image, request, self.config))

    def start(self, node, **given):
        self.register(node, **given)
        self.beat(node)

    def fence(self, *nodes):
        for node in nodes:
            self.commit(node_decisions.fence(self.image, node, self.config))

    def drain(self, node, *, cancel=False):
        self.commit(node_decisions.drain_node(self.image, c.DrainNodeRequest(node, cancel), self.config))

    def remove(self, node, *, alive=False):
        self.commit(node_decisions.remove_node(self.image, c.RemoveNodeRequest(node), alive=alive))

    def describe(self, controller_id=1):
        return {node.node_id: node for node in node_decisions.describe_cluster(self.image, "c", controller_id).nodes}

    # ---- topics

    def topic(self, *assignments, name="a", count=-1, factor=-1, **configs):
        """A topic with these replicas for its partitions, or with so many partitions."""
        pairs = [(key, str(value)) for key, value in configs.items()]
        wanted = NewTopic(name, count, factor, pairs, [list(replicas) for replicas in assignments])
        request = CreateTopicsRequest([wanted], 1000)
        decision = decisions.create_topics(self.image, request, self.config, lambda name, at: f"{name}@{at}")
        (result,) = self.commit(decision).topics
        assert not result.error_code, result.error_message
        return self

    def setting(self, key, name="a"):
        return self.image.config_of(TOPIC_RESOURCE, name).get(key)

    def state(self, partition=0, name="a"):
        return self.image.topics[name].partitions[partition]

    def summary(self, partition=0, name="a"):
        """Leader, ISR and ELR."""
        state = self.state(partition, name)
        return state.leader, list(state.isr), list(state.elr)

    def alter(self, isr, *, partition=0, name="a", sender=None, member_epochs=(), lost=(), **given):
        """The leader asks for an ISR; the entry of the reply."""
        state = self.state(partition, name)
        sender = state.leader if sender is None else sender
        epochs = {member: self.image.nodes[member].epoch for member in isr if member in self.image.nodes}
        epochs |= dict(member_epochs)
        members = [(member, epochs.get(member, 0)) for member in isr]
        epoch = {"leader_epoch": state.leader_epoch, "partition_epoch": state.partition_epoch, **given}
        epochs = epoch["leader_epoch"], epoch["partition_epoch"]
        change = p.PartitionChange(name, partition, *epochs, members, "", list(lost))
        request = p.AlterPartitionRequest(sender, self.image.nodes[sender].epoch, [change])
        (entry,) = self.commit(partition_decisions.alter_partition(self.image, request, self.config)).partitions
        return entry

    def elect(self, *partitions, unclean=False):
        """Codes by partition of topic a; of all that need it if none is named."""
        wanted = [("a", partition) for partition in partitions] or None
        request = c.ElectLeadersRequest(wanted, unclean)
        reply = self.commit(partition_decisions.elect_leaders(self.image, request, self.config))
        return {entry.partition: entry.error_code for entry in reply.partitions}

    def move(self, replicas, *, partition=0, name="a", factor=0):
        """Begin a move, or with None take it back; the entry of the reply."""
        request = c.AlterPartitionReassignmentsRequest([c.Reassignment(name, partition, replicas)], 1000, factor)
        decision = reassignment.alter_partition_reassignments(self.image, request, self.config)
        (entry,) = self.commit(decision).partitions
        return entry

    def check_snapshot(self):
        check_snapshot(self.image)

    def catch_up(self):
        """Let every living replica get into its ISR, and so end all moves that can end."""
        for name, topic in self.image.topics.items():
            for index in range(len(topic.partitions)):
                state = self.state(index, name)
                if state.leader != -1:
                    nodes = self.image.nodes
                    fit = [node for node in state.replicas if not (nodes[node].fenced or nodes[node].stopping)]
                    self.alter(dict.fromkeys([*fit, state.leader]), partition=index, name=name)


def check_image(image, config):
    """What holds for each state of the metadata."""
    for name, topic in image.topics.items():
        rules = elections.rules_of(image, config, name)
        for state in topic.partitions:
            replicas, isr, elr = state.replicas, set(state.isr), set(state.elr)
            assert len(set(replicas)) == len(replicas) > 0, state
            assert len(isr) == len(state.isr), state
            assert len(elr) == len(state.elr), state
            assert isr <= set(replicas), state
            assert elr <= set(replicas) - isr, state
            fenced = {node for node in isr if image.nodes[node].fenced}
            if state.leader == -1:
                assert fenced == isr, f"somebody could lead: {state}"
                assert len(fenced) <= 1, f"fenced nodes in the ISR: {state}"
                assert all(image.nodes[node].fenced for node in elr), f"somebody eligible could lead: {state}"
            else:
                assert state.leader in isr, state
                assert not fenced, f"fenced nodes in the ISR: {state}"
                stopping = {node for node in isr if image.nodes[node].stopping}
                assert not stopping or stopping == isr, f"stopping nodes keep others waiting: {state}"
            if len(isr) >= elections.min_insync_replicas(rules.min_insync_replicas, state):
                assert not elr, f"an ELR beside a full ISR: {state}"
            assert set(state.adding) | set(state.removing) <= set(replicas), state
            assert not set(state.adding) & set(state.removing), state


def check_step(before, after):
    """What holds between each two states of the metadata."""
    for name, topic in before.topics.items():
        for old, new in zip(topic.partitions, after.topics[name].partitions, strict=False):
            assert new.leader_epoch >= old.leader_epoch, (old, new)
            assert new.partition_epoch >= old.partition_epoch, (old, new)
            if new.leader != old.leader:
                assert new.leader_epoch > old.leader_epoch, (old, new)
            if not set(old.replicas) <= set(new.replicas):
                assert new.leader_epoch > old.leader_epoch, (old, new)
            if replace(new, partition_epoch=0) != replace(old, partition_epoch=0):
                assert new.partition_epoch > old.partition_epoch, (old, new)
    for node_id, node in before.nodes.items():
        if node_id in after.nodes:
            assert after.nodes[node_id].epoch >= node.epoch


def check_snapshot(image):
    """A snapshot makes the same image."""
    made_anew = apply(MetadataImage(), as_records(image), TOPIC_RESOURCE)
    assert replace(made_anew, end_offset=image.end_offset) == image


@pytest.fixture(scope="session")
def metadata():
    """Makes metadata of a cluster: metadata(nodes, racks=..., setting=...)."""
    return Metadata
