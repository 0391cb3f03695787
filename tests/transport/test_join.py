"""Asking for a cluster to join: which node is asked, what ends the attempts, and what is said when none answers."""

from __future__ import annotations

import socket
import threading
import time

import pytest
import zmq
from zmqbroker.errors import BrokerNotAvailableError, ConfigError, DuplicateBrokerRegistrationError
from zmqbroker.transport.catalogue import REQUESTS
from zmqbroker.transport.envelope import decode_request, encode_error, encode_reply, split_request
from zmqbroker.transport.join import JoinError, join_cluster
from zmqbroker.transport.messages import ApiRange, ApiVersionsReply, ApiVersionsRequest
from zmqbroker.transport.peer_messages import JoinClusterReply, JoinClusterRequest

REPLY = JoinClusterReply("the-cluster", 4, [(1, "10.0.0.1", 9292), (2, "10.0.0.2", 9292)])


class FakeNode:
    """A node in a thread that answers JoinClusterRequests from a script, the last answer again and again."""

    def __init__(self, *script, apis=(JoinClusterRequest.API,), garbage=False):
        self.script = list(script)
        self.apis = apis
        self.garbage = garbage
        self.heard = []
        self.context = zmq.Context()
        self.router = self.context.socket(zmq.ROUTER)
        self.router.setsockopt(zmq.LINGER, 1000)
        self.address = f"127.0.0.1:{self.router.bind_to_random_port('tcp://127.0.0.1')}"
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        while True:
            routing_id, *frames = self.router.recv_multipart()
            if routing_id == b"end" or frames == [b"end"]:
                break
            raw = split_request(frames[0])
            request = decode_request(raw)
            self.heard.append(request)
            if self.garbage:
                self.router.send_multipart([routing_id, b"hello yourself"])
            elif (answer := self.answer(request)) is None:
                continue
            elif isinstance(answer, Exception):
                self.router.send_multipart([routing_id, encode_error(raw.api, raw.correlation_id, answer)])
            else:
                self.router.send_multipart([routing_id, encode_reply(raw.api, raw.correlation_id, answer)])
        self.router.close()

    def answer(self, request):
        if isinstance(request, ApiVersionsRequest):
            apis = [ApiRange(api, 0, REQUESTS[api].MAX_VERSION) for api in self.apis]
            return ApiVersionsReply("the-cluster", 1, apis, 1 << 20, 1 << 20, "zmqbroker")
        return self.script.pop(0) if len(self.script) > 1 else self.script[0]

    def close(self):
        with zmq.Context() as context, context.socket(zmq.DEALER) as end:
            end.connect(f"tcp://{self.address}")
            end.send(b"end")
            self.thread.join(10)
        assert not self.thread.is_alive()
        self.context.term()


@pytest.fixture
def start():
    nodes = []

    def make(*script, **options):
        nodes.append(FakeNode(*script, **options))
        return nodes[-1]

    yield make
    for node in nodes:
        node.close()


@pytest.fixture(params=[b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", None])
def stranger(request):
    """A listener that says this to everybody and hangs up, or takes connections and says nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = listener.getsockname()
        done = threading.Event()

        def run():
            while True:
                connection = listener.accept()[0]
                with connection:
                    if done.is_set():
                        return
                    connection.sendall(request.param)

        thread = threading.Thread(target=run)
        if request.param is not None:
            thread.start()
        yield f"127.0.0.1:{address[1]}"
        done.set()
        if request.param is not None:
            socket.create_connection(address).close()
            thread.join(10)


@pytest.fixture
def refusing():
    """An address where nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


def test_the_reply_is_the_clusters(start):
    node = start(REPLY)
    assert join_cluster([node.address], -1, 10_000) == REPLY
    greeting, request = node.heard
    assert (greeting.software, greeting.cluster_id, greeting.node_id) == ("zmqbroker-node", None, -1)
    assert request == JoinClusterRequest(-1)
    assert join_cluster([f" tcp://{node.address} ", ""], 7, 10_000) == REPLY
    assert (node.heard[2].client_id, node.heard[2].node_id, node.heard[3].node_id) == ("node-7", 7, 7)


def test_the_next_address_is_asked_when_one_does_not_answer(start, refusing, caplog):
    assert join_cluster([refusing, "no-such-host.invalid:1", start(REPLY).address], -1, 10_000) == REPLY
    assert f"at {refusing}: the connection was refused" in caplog.text
    assert "at no-such-host.invalid:1: the name is not known" in caplog.text


def test_a_retriable_error_is_tried_again(start):
    node = start(BrokerNotAvailableError("no controller yet"), BrokerNotAvailableError("no controller yet"), REPLY)
    assert join_cluster([node.address], -1, 10_000) == REPLY
    assert len(node.heard) == 6


def test_a_refusal_of_the_cluster_ends_it_at_once(start):
    node = start(DuplicateBrokerRegistrationError("node 2 is alive elsewhere"))
    with pytest.raises(JoinError, match=rf"{node.address} does not take this node: DUPLICATE.*: node 2 is alive"):
        join_cluster([node.address, node.address], 2, 10_000)
    assert len(node.heard) == 2


def test_a_broker_that_knows_no_clusters_ends_it(start):
    with pytest.raises(JoinError, match="node 1 speaks no version of JoinClusterRequest"):
        join_cluster([start(REPLY, apis=()).address], 2, 10_000)


def test_every_address_is_named_with_its_reason_when_time_is_over(start, refusing):
    garbage = start(garbage=True)
    mute = start(None)
    began = time.monotonic()
    with pytest.raises(JoinError) as caught:
        join_cluster([refusing, garbage.address, mute.address], 2, 700)
    assert 0.6 < time.monotonic() - began < 5
    message = caught.value.message
    assert "within 0.7 s" in message
    assert f"{refusing}: the connection was refused" in message
    assert f"{garbage.address}: what listens there is no zmqbroker" in message
    assert f"{mute.address}: it did not answer" in message


def test_a_stranger_is_said_to_be_one(stranger):
    with pytest.raises(JoinError, match=f"{stranger}: what listens there does not speak this protocol"):
        join_cluster([stranger], 2, 300)


@pytest.mark.parametrize("text", ["nonsense", "host:", ":9292", "host:0", "host:99999", "host:x", "http://host/:1"])
def test_what_is_no_address_is_said(text):
    with pytest.raises(ConfigError, match="HOST:PORT"):
        join_cluster([text], 1, 1000)


def test_no_address_at_all_is_said():
    with pytest.raises(ConfigError, match="no address to join at"):
        join_cluster([" "], 1, 1000)
