"""Nodes of different software: they talk by a version that both speak, or not at all."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from zmqbroker.errors import UnsupportedVersionError
from zmqbroker.transport.cluster_messages import UpgradeClusterRequest

PROGRAM = Path(__file__).parent / "next_version.py"


@contextmanager
def other_software(cluster, lowest, highest):
    """A third node in a process of its own; yields its first word."""
    settings = {
        **cluster._settings,
        "node_id": 3,
        "listen": "tcp://127.0.0.1:0",
        "data_dir": str(cluster.folder / "3"),
        "join": cluster.servers(1),
        "graceful_shutdown_timeout_ms": 1_000,
    }
    command = [sys.executable, str(PROGRAM), str(lowest), str(highest), json.dumps(settings)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.stdout.readline()
        finally:
            process.kill()


def test_a_node_of_the_next_version_joins_and_talks_as_the_others_do(make_cluster, eventually):
    cluster = make_cluster(2)
    with other_software(cluster, 0, 1) as said:
        assert said.startswith("ready ")
        node = eventually(lambda: cluster.image.nodes.get(3), "it is registered")
        assert (node.min_version, node.max_version) == (0, 1)
        cluster.assign("t", [1, 2, 3])
        eventually(lambda: sorted(cluster.state("t").isr) == [1, 2, 3], "it follows")
        eventually(lambda: len(cluster.image.voters) == 3, "it votes")
        assert cluster.leader("t").client().produce("t", b"x").error_code == 0
        before = cluster.everything("t")
        for version in (1, 2):
            with pytest.raises(UnsupportedVersionError, match=r"node 1 speaks the protocol versions 0 to 0, and not"):
                cluster.controller.client().call(UpgradeClusterRequest(version))
        assert cluster.everything("t") == before
        assert before[0].protocol_version == 0


def test_a_node_that_speaks_no_version_of_the_clusters_is_refused(make_cluster):
    cluster = make_cluster(2)
    before = cluster.everything()
    with other_software(cluster, 1, 2) as said:
        assert said.startswith("refused ")
        assert "versions 0 to 0" in said
        assert "versions 1 to 2" in said
    assert cluster.everything()[0].nodes == before[0].nodes
