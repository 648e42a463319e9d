"""One module a page: `build` puts it into the app, its other functions fill it and answer over HTTP."""
