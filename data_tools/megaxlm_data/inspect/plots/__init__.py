"""The plots of the page: each module takes numbers and gives a `Plot`; see `canvas`."""
