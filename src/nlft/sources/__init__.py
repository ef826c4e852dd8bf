"""What users have: tables, JSON, datasets by name, and other tools' exports, as records."""
