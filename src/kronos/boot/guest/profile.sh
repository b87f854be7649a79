export PATH=/bin HOME=/root TERM="${TERM:-vt100}"
export PS1='root@\h:\w# '
