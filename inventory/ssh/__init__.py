"""The way to a server over SSH, for terminals, commands, files, checks and installation.

- ``access``       where, as whom: read from the database before any network is waited for
- ``errors``       what can go wrong, one sentence each
- ``connections``  ``connected(access)``: the shared connection and the channels on it
- ``commands``     ``run(access, command)``: one command seen through to its end
- ``files``        ``put``, ``read``, ``opened``: files over SFTP
- ``shells``       ``ShellChannel``, made by ``connection.open_shell``: a login shell for a terminal
- ``host_keys``    whom we talk to: scan, confirm, re-pin
- ``logins``, ``handshakes``, ``transports``, ``packets``, ``scripts``: how it is done; for this package alone

Everything raises ``errors.SshError`` and waits for the network in the caller's thread, unless it says otherwise.
"""
