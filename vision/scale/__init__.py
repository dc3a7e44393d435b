"""Jobs on pictures by the million: URLs, tar shards, and a Ray cluster; see `vision.scale.run`."""
