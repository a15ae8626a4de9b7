"""Show the clusters of a model on images: sheets, and a page to click on."""

from paca_mm.cli import front

main = front('clusters')

if __name__ == '__main__':
    main()
