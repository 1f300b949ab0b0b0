"""Behind `lorakit chat`: where lines come from, the commands among them, how answers are shown."""
