"""What chains the other rooms: tune, compare, rounds, demo."""
