  # Required in the request itself: accounts may refuse to start an instance whose metadata needs no token, and the
  # plugin asks for optional tokens otherwise. The limit of one hop keeps containers away from the credentials.
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  # The plugin uses no open capacity reservation unless told to.
  capacity_reservation_preference = var.capacity.preference == "" ? null : var.capacity.preference
  capacity_reservation_id         = var.capacity.reservation == "" ? null : var.capacity.reservation

  # Not spot_tags: the plugin crashes if EC2 does not report the spot request yet.
  fleet_tags = length(var.spot_types) == 0 ? null : var.tags
