"""Time models side by side: ours, the peers a user would pick instead, a plain reading of PaCa."""

from paca_mm.cli import front

main = front('bench')

if __name__ == '__main__':
    main()
