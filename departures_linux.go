package ssefanin

import (
	"net"
	"os"
	"sync"
	"syscall"
)

// departures notices clients of connections that were taken over which leave. One
// goroutine waits for all of them, by an epoll instance: one for each connection
// would cost more memory than everything else about a client whose request has
// ended. A connection of which the descriptor is not known is read by a goroutine.
//
// The kernel knows a connection by a number, never by its descriptor, which may be
// another connection's when an event is looked at. It is followed for one event;
// whoever deals with that has it followed on.
//
// Safe for concurrent use.
type departures struct {
	mu    sync.Mutex // protects the fields below, and that fd is what epoll has; held over calls that never block
	epoll *os.File   // nil without connections
	fd    int
	conns map[uint64]*takenConn
	last  uint64 // number that was given
}

// departed is how the kernel says that a client has left; what it was sent may
// still wait to be read.
const departed = syscall.EPOLLRDHUP | syscall.EPOLLHUP | syscall.EPOLLERR

// departureBatch is how many connections are looked at after one wait at most.
const departureBatch = 64

// follow follows a connection until forget, or its end.
func (d *departures) follow(o *takenConn) {
	if rawConn(o.conn) == nil || !d.add(o) {
		go o.read()
		return
	}
	if o.heard.Load() > 0 && belowTLS(o.conn) != o.conn {
		go o.readSome() // more may have been deciphered already, and the end
		return
	}
	d.followOn(o)
}

// followOn follows a connection for its next event. After too many bytes only its
// end is one.
func (d *departures) followOn(o *takenConn) {
	event := syscall.EpollEvent{Events: departed | syscall.EPOLLONESHOT, Fd: int32(o.id), Pad: int32(o.id >> 32)}
	if o.heard.Load() < maxUnwanted {
		event.Events |= syscall.EPOLLIN
	}
	var refused error
	err := rawConn(o.conn).Control(func(fd uintptr) { refused = d.control(o, int(fd), &event) })
	if err != nil {
		o.hear(0, err) // it has been closed
	} else if refused != nil {
		go o.read() // the kernel has no memory for it
	}
}

// control asks the kernel for an event of a connection, unless that has been
// forgotten.
func (d *departures) control(o *takenConn, fd int, event *syscall.EpollEvent) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.conns[o.id] != o {
		return nil
	}
	err := syscall.EpollCtl(d.fd, syscall.EPOLL_CTL_MOD, fd, event)
	if err == syscall.ENOENT { //nolint:errorlint // it is a number
		err = syscall.EpollCtl(d.fd, syscall.EPOLL_CTL_ADD, fd, event)
	}
	return err
}

// add gives a connection a number. It reports whether that was possible: the
// process may have no descriptor left.
func (d *departures) add(o *takenConn) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.epoll == nil {
		fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
		if err != nil {
			return false
		}
		if err := syscall.SetNonblock(fd, true); err != nil { // so that no thread waits for it
			_ = syscall.Close(fd)
			return false
		}
		d.epoll, d.fd, d.conns = os.NewFile(uintptr(fd), "epoll"), fd, make(map[uint64]*takenConn)
		go d.run(d.epoll)
	}
	d.last++
	o.id = d.last
	d.conns[o.id] = o
	return true
}

// forget ends to follow a connection. It is called before that is closed.
func (d *departures) forget(o *takenConn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if o.id == 0 {
		return // a goroutine reads it
	}
	delete(d.conns, o.id)
	if len(d.conns) == 0 {
		_ = d.epoll.Close() // which ends run
		d.epoll, d.conns = nil, nil
	}
}

// run looks at what happens to connections. It is the process's, and ends when the
// last connection has been forgotten.
func (d *departures) run(epoll *os.File) {
	raw, err := epoll.SyscallConn()
	events := make([]syscall.EpollEvent, departureBatch)
	for err == nil {
		n := 0
		err = raw.Read(func(fd uintptr) bool {
			var failed error
			n, failed = syscall.EpollWait(int(fd), events, 0)
			return n > 0 || failed != nil
		})
		for _, event := range events[:max(n, 0)] {
			d.happened(uint64(uint32(event.Fd))|uint64(uint32(event.Pad))<<32, event.Events)
		}
	}
}

// happened deals with the event of a connection.
func (d *departures) happened(id uint64, events uint32) {
	d.mu.Lock()
	o := d.conns[id]
	d.mu.Unlock()
	switch {
	case o == nil: // it has been forgotten
	case events&departed != 0:
		o.sub.lost()
	default:
		go o.readSome()
	}
}

// rawConn returns the descriptor of a connection over TCP or a unix socket, with
// TLS or without, also of one that began with a PROXY header; nil if it is not
// known.
func rawConn(conn net.Conn) syscall.RawConn {
	conn = belowTLS(conn)
	if proxied, ok := conn.(interface{ Raw() net.Conn }); ok {
		conn = proxied.Raw()
	}
	known, ok := conn.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := known.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}
