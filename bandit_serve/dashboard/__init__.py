"""Dashboard: pages for people, made of what the API answers; HTML from templates, style and one script."""
