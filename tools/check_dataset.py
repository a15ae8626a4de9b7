"""Look at every file of a config's datasets: faults by kind, with the first offenders."""

from paca_mm.cli import front

main = front('check-dataset')

if __name__ == '__main__':
    main()
