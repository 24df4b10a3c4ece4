"""Invented patients and the files that hospitals would keep about them, with every identifier known.

Why it exists: de-identification can only be measured on files whose identifiers
are known. Here they are known because we planted them.

Rules:
    * Independent of the code under test: nothing here imports, reads or copies from `fedmed.deid`.
    * No real person: names are composed of syllables or characters. Resident IDs carry a county code, US
      security numbers an area, and US phones an exchange that are not given out; e-mail and web addresses
      end in the reserved `example` domains. Chinese mobile numbers have no reserved range and are random digits.
    * Everything random comes from a generator that the caller injects: the same seed, the same bytes.

What it does not do: imitate any hospital's statistics, or stand in for real notes when recall is claimed.
"""
