"""mold for MCP hosts: tools that generate images and videos, and the gallery as resources.

Needs the extra ``mcp`` (`pip install 'mold-core[mcp]'`). `mold mcp` serves it on standard input and output, the server
at `/mcp`.
"""
