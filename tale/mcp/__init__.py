"""The Model Context Protocol over HTTP, on aiohttp."""
