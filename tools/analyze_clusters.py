"""Measure learned clusters over a dataset, before and after training."""

from paca_mm.cli import front

main = front('cluster-stats')

if __name__ == '__main__':
    main()
