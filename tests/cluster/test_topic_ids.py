"""A topic that was deleted and created anew is another topic to its leader, whatever its name says (KIP-516)."""

from __future__ import annotations

import queue

from zmqbroker.actors.actor import ReactorActor
from zmqbroker.actors.peer_commands import FollowerAt, FollowerData
from zmqbroker.errors import InconsistentTopicIdError
from zmqbroker.testing import Broker


class Server(ReactorActor):
    """Hands what it is told to the test."""

    def __init__(self, heard: queue.Queue) -> None:
        super().__init__()
        self.heard = heard

    def on_receive(self, message: object) -> None:
        self.heard.put(message)


def test_a_follower_of_the_topic_before_is_refused():
    from zmqbroker import Admin
    from zmqbroker.client.admin import NewTopic

    heard: queue.Queue = queue.Queue()
    with Broker() as broker, Admin(bootstrap_servers=broker.bootstrap_servers) as admin:
        admin.create_topics([NewTopic("t")])
        reactor = broker._node._reactor

        def ask() -> None:
            server = reactor.spawn(Server, heard, address="server")
            leader = reactor.lookup("partition/t/0")
            leader.tell(FollowerAt(server, 2, 0, 0, 0, -1, "the topic of before"))

        reactor.call_from_thread(ask)
        answer = heard.get(timeout=20)
    assert isinstance(answer, FollowerData)
    assert answer.state.error_code == InconsistentTopicIdError.code
    assert "the topic of before" in answer.state.error_message
