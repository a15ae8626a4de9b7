"""Train the small model of every family on the embedded dataset, in all its tasks, by one schedule."""

from paca_mm.cli import front

main = front('families')

if __name__ == '__main__':
    main()
