"""Make the embedded shapes dataset: COCO instances, ADE-style masks and ImageFolder from a seed."""

from paca_mm.cli import front

main = front('shapes')

if __name__ == '__main__':
    main()
