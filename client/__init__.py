"""The native client: Producer, Consumer, Admin, and their asyncio twins."""
