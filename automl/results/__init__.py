"""What a search leaves behind: the leaderboard, and the best model as a folder."""
