"""What people look at: text, figures, JSON; a report takes a comparison and draws it."""
