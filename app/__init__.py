"""The laboratory in a browser: pages of Gradio above the library, which compute nothing of their own."""
