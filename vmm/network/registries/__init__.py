"""Where the host's own tools get packages: a module for each tool, with `urls(host)`."""
