"""The admin client for event loops."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .admin import AdminSettings, quota_change
from .admin_calls import AdminCalls
from .aio_loop import LoopDriver
from .io import ClientIO
from .options import AdminOptions, make_options

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Self

    from typing_extensions import Unpack

    from .admin_types import (
        ClusterDescription,
        ConfigEntry,
        ConfigResource,
        CreatedTopic,
        LogDirDescription,
        NewTopic,
        NodeStatus,
        TopicDescription,
    )
    from .types import OffsetAndTimestamp, TopicPartition


class AsyncAdmin:
    """`client.admin.Admin` for event loops: the same calls, awaited; they raise the same errors."""

    def __init__(self, **settings: Unpack[AdminSettings]) -> None:
        options = make_options(AdminOptions, settings)
        self._io = ClientIO(options)
        self._calls = AdminCalls(self._io, options.default_api_timeout_ms)
        self._driver = LoopDriver(self._io)

    async def create_topics(self, topics: Iterable[NewTopic], *, validate_only: bool = False) -> list[CreatedTopic]:
        """Create topics."""
        return await self._driver.run(self._calls.create_topics(topics, validate_only=validate_only))

    async def delete_topics(self, names: Iterable[str]) -> None:
        """Delete topics and their records."""
        await self._driver.run(self._calls.delete_topics(names))

    async def create_partitions(self, totals: Mapping[str, int], *, validate_only: bool = False) -> None:
        """Grow topics to so many partitions in all."""
        await self._driver.run(self._calls.create_partitions(totals, validate_only=validate_only))

    async def list_topics(self, *, include_internal: bool = False) -> list[str]:
        """The names of all topics, sorted."""
        return await self._driver.run(self._calls.list_topics(include_internal=include_internal))

    async def describe_topics(self, names: Sequence[str] | None = None) -> list[TopicDescription]:
        """Topics and who hosts their partitions; all topics if none are named."""
        return await self._driver.run(self._calls.describe_topics(names))

    async def describe_configs(
        self, resources: Iterable[ConfigResource]
    ) -> dict[ConfigResource, dict[str, ConfigEntry]]:
        """The settings of topics, nodes or clients, by name."""
        return await self._driver.run(self._calls.describe_configs(resources))

    async def alter_configs(
        self, changes: Mapping[ConfigResource, Mapping[str, str | None]], *, validate_only: bool = False
    ) -> None:
        """Change settings; None goes back to the default."""
        await self._driver.run(self._calls.alter_configs(changes, validate_only=validate_only))

    async def alter_client_quotas(
        self, client_id: str, *, producer_byte_rate: int | None = None, consumer_byte_rate: int | None = None
    ) -> None:
        """Limit the clients of a client id, in bytes a second; None: no limit."""
        changes = quota_change(client_id, producer_byte_rate, consumer_byte_rate)
        await self._driver.run(self._calls.alter_configs(changes, validate_only=False))

    async def delete_records(self, before: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        """Delete the records of partitions below an offset (-1: all); returns the new first offsets."""
        return await self._driver.run(self._calls.delete_records(before))

    async def list_offsets(self, wanted: Mapping[TopicPartition, int]) -> dict[TopicPartition, OffsetAndTimestamp]:
        """Offsets by time (ms since 1970), or -1: the end, -2: the first, -3: that of the highest timestamp."""
        return await self._driver.run(self._calls.list_offsets(wanted))

    async def describe_cluster(self) -> ClusterDescription:
        """The cluster's id, controller and nodes."""
        return await self._driver.run(self._calls.describe_cluster())

    async def describe_log_dirs(self, node_ids: Iterable[int] | None = None) -> list[LogDirDescription]:
        """What nodes hold on disk; all nodes if none are named."""
        return await self._driver.run(self._calls.describe_log_dirs(node_ids))

    async def node_status(self, node_id: int | None = None) -> NodeStatus:
        """How a node is; any node if none is named."""
        return await self._driver.run(self._calls.node_status(node_id))

    async def close(self) -> None:
        """Disconnect."""
        self._driver.close()
        self._io.close()

    async def __aenter__(self) -> Self:
        """The admin client itself."""
        self._driver.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        await self.close()
