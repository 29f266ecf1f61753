"""Who is calling: accounts, API keys, and the middleware that puts a `Principal` on each request."""
