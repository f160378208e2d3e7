"""The API of AUTOMATIC1111's web UI (`/sdapi/v1`), as routes of mold's server."""
