"""One file per resource. A handler reads the request, calls one thing, and renders what comes back."""
