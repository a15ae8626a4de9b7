"""Draw loss, learning rate and metrics of one or several trainings from their logs."""

from paca_mm.cli import front

main = front('plot-log')

if __name__ == '__main__':
    main()
