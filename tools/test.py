"""Evaluate a checkpoint of any of the three tasks, and draw or keep its predictions."""

from paca_mm.cli import front

main = front('test')

if __name__ == '__main__':
    main()
