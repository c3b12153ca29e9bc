"""Registration of a time series: movies and 4D scans."""
