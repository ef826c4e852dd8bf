"""What a training needs: memory, tokens, time, cards."""
