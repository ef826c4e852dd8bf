"""What tests share: tiny models, made-up runs, servers that fail, and generators of tables in docs."""
