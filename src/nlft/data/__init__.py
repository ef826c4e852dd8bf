"""From questions and feedback to examples: records, graders, problems, judgments."""
