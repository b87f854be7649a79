# Written by tools/stubs.py from the facts; `make stubs` writes it again.
from typing import Any

from kronos.db.record import Record

KINDS: dict[str, type[Record]]

def python_name(cls: str) -> str: ...

class Bond(Record):
    uuid: str
    master: str
    slaves: tuple[str, ...]
    other_config: dict[str, str]
    primary_slave: str
    mode: str
    properties: dict[str, str]
    links_up: int
    auto_update_mac: bool

class Caller(Record):
    uuid: str
    name_label: str
    name_description: str
    user_agent: str
    client_ip: str
    last_access: str
    groups: tuple[str, ...]
    rate_limit: str
    auto_registered: bool

class Certificate(Record):
    uuid: str
    name: str
    type: str
    host: str
    not_before: str
    not_after: str
    fingerprint: str
    fingerprint_sha256: str
    fingerprint_sha1: str
    purpose: tuple[str, ...]

class Cluster(Record):
    uuid: str
    cluster_hosts: tuple[str, ...]
    pending_forget: tuple[str, ...]
    cluster_token: str
    cluster_stack: str
    cluster_stack_version: int
    is_quorate: bool
    quorum: int
    live_hosts: int
    expected_hosts: int
    allowed_operations: tuple[str, ...]
    current_operations: dict[str, str]
    pool_auto_join: bool
    token_timeout: float
    token_timeout_coefficient: float
    cluster_config: dict[str, str]
    other_config: dict[str, str]

class Cluster_host(Record):
    uuid: str
    cluster: str
    host: str
    enabled: bool
    PIF: str
    joined: bool
    live: bool
    last_update_live: str
    allowed_operations: tuple[str, ...]
    current_operations: dict[str, str]
    other_config: dict[str, str]

class DR_task(Record):
    uuid: str
    introduced_SRs: tuple[str, ...]

class Diagnostics(Record):
    ...

class Driver_variant(Record):
    uuid: str
    name: str
    driver: str
    version: str
    hardware_present: bool
    priority: float
    status: str

class Feature(Record):
    uuid: str
    name_label: str
    name_description: str
    enabled: bool
    experimental: bool
    version: str
    host: str

class GPU_group(Record):
    uuid: str
    name_label: str
    name_description: str
    PGPUs: tuple[str, ...]
    VGPUs: tuple[str, ...]
    GPU_types: tuple[str, ...]
    other_config: dict[str, str]
    allocation_algorithm: str
    supported_VGPU_types: tuple[str, ...]
    enabled_VGPU_types: tuple[str, ...]

class Host_driver(Record):
    uuid: str
    host: str
    name: str
    friendly_name: str
    variants: tuple[str, ...]
    active_variant: str
    selected_variant: str
    type: str
    description: str
    info: str

class LVHD(Record):
    uuid: str

class Observer(Record):
    uuid: str
    name_label: str
    name_description: str
    hosts: tuple[str, ...]
    attributes: dict[str, str]
    endpoints: tuple[str, ...]
    components: tuple[str, ...]
    enabled: bool

class PBD(Record):
    uuid: str
    host: str
    SR: str
    device_config: dict[str, str]
    currently_attached: bool
    other_config: dict[str, str]

class PCI(Record):
    uuid: str
    class_id: str
    class_name: str
    vendor_id: str
    vendor_name: str
    device_id: str
    device_name: str
    host: str
    pci_id: str
    functions: int
    virtual_functions: tuple[str, ...]
    physical_function: str
    attached_VMs: tuple[str, ...]
    dependencies: tuple[str, ...]
    other_config: dict[str, str]
    subsystem_vendor_id: str
    subsystem_vendor_name: str
    subsystem_device_id: str
    subsystem_device_name: str
    scheduled_to_be_attached_to: str
    driver_name: str

class PGPU(Record):
    uuid: str
    PCI: str
    GPU_group: str
    host: str
    other_config: dict[str, str]
    supported_VGPU_types: tuple[str, ...]
    enabled_VGPU_types: tuple[str, ...]
    resident_VGPUs: tuple[str, ...]
    size: int
    supported_VGPU_max_capacities: dict[str, int]
    dom0_access: str
    is_system_display_device: bool
    compatibility_metadata: dict[str, str]

class PIF(Record):
    uuid: str
    device: str
    network: str
    host: str
    MAC: str
    MTU: int
    VLAN: int
    device_name: str
    metrics: str
    physical: bool
    currently_attached: bool
    ip_configuration_mode: str
    IP: str
    netmask: str
    gateway: str
    DNS: str
    bond_slave_of: str
    bond_master_of: tuple[str, ...]
    VLAN_master_of: str
    VLAN_slave_of: tuple[str, ...]
    management: bool
    other_config: dict[str, str]
    disallow_unplug: bool
    tunnel_access_PIF_of: tuple[str, ...]
    tunnel_transport_PIF_of: tuple[str, ...]
    ipv6_configuration_mode: str
    IPv6: tuple[str, ...]
    ipv6_gateway: str
    primary_address_type: str
    managed: bool
    properties: dict[str, str]
    capabilities: tuple[str, ...]
    igmp_snooping_status: str
    sriov_physical_PIF_of: tuple[str, ...]
    sriov_logical_PIF_of: tuple[str, ...]
    PCI: str

class PIF_metrics(Record):
    uuid: str
    io_read_kbs: float
    io_write_kbs: float
    carrier: bool
    vendor_id: str
    vendor_name: str
    device_id: str
    device_name: str
    speed: int
    duplex: bool
    pci_bus_path: str
    last_updated: str
    other_config: dict[str, str]

class PUSB(Record):
    uuid: str
    USB_group: str
    host: str
    path: str
    vendor_id: str
    vendor_desc: str
    product_id: str
    product_desc: str
    serial: str
    version: str
    description: str
    passthrough_enabled: bool
    other_config: dict[str, str]
    speed: float

class PVS_cache_storage(Record):
    uuid: str
    host: str
    SR: str
    site: str
    size: int
    VDI: str

class PVS_proxy(Record):
    uuid: str
    site: str
    VIF: str
    currently_attached: bool
    status: str

class PVS_server(Record):
    uuid: str
    addresses: tuple[str, ...]
    first_port: int
    last_port: int
    site: str

class PVS_site(Record):
    uuid: str
    name_label: str
    name_description: str
    PVS_uuid: str
    cache_storage: tuple[str, ...]
    servers: tuple[str, ...]
    proxies: tuple[str, ...]

class Rate_limit(Record):
    uuid: str
    name_label: str
    name_description: str
    callers: tuple[str, ...]
    burst_size: float
    fill_rate: float

class Repository(Record):
    uuid: str
    name_label: str
    name_description: str
    binary_url: str
    source_url: str
    update: bool
    hash: str
    up_to_date: bool
    gpgkey_path: str
    origin: str
    certificate: str

class SDN_controller(Record):
    uuid: str
    protocol: str
    address: str
    port: int

class SM(Record):
    uuid: str
    name_label: str
    name_description: str
    type: str
    vendor: str
    copyright: str
    version: str
    required_api_version: str
    configuration: dict[str, str]
    capabilities: tuple[str, ...]
    features: dict[str, int]
    host_pending_features: dict[str, tuple[str, ...]]
    other_config: dict[str, str]
    driver_filename: str
    required_cluster_stack: tuple[str, ...]
    supported_image_formats: tuple[str, ...]

class SR(Record):
    uuid: str
    name_label: str
    name_description: str
    allowed_operations: tuple[str, ...]
    current_operations: dict[str, str]
    VDIs: tuple[str, ...]
    PBDs: tuple[str, ...]
    virtual_allocation: int
    physical_utilisation: int
    physical_size: int
    type: str
    content_type: str
    shared: bool
    other_config: dict[str, str]
    tags: tuple[str, ...]
    default_vdi_visibility: bool
    sm_config: dict[str, str]
    blobs: dict[str, str]
    local_cache_enabled: bool
    introduced_by: str
    clustered: bool
    is_tools_sr: bool

class USB_group(Record):
    uuid: str
    name_label: str
    name_description: str
    PUSBs: tuple[str, ...]
    VUSBs: tuple[str, ...]
    other_config: dict[str, str]

class VBD(Record):
    uuid: str
    allowed_operations: tuple[str, ...]
    current_operations: dict[str, str]
    VM: str
    VDI: str
    device: str
    userdevice: str
    bootable: bool
    mode: str
    type: str
    unpluggable: bool
    storage_lock: bool
    empty: bool
    reserved: bool
    other_config: dict[str, str]
    currently_attached: bool
    status_code: int
    status_detail: str
    runtime_properties: dict[str, str]
    qos_algorithm_type: str
    qos_algorithm_params: dict[str, str]
    qos_supported_algorithms: tuple[str, ...]
    metrics: str

class VBD_metrics(Record):
    uuid: str
    io_read_kbs: float
    io_write_kbs: float
    last_updated: str
    other_config: dict[str, str]

class VDI(Record):
    uuid: str
    name_label: str
    name_description: str
    allowed_operations: tuple[str, ...]
    current_operations: dict[str, str]
    SR: str
    VBDs: tuple[str, ...]
    crash_dumps: tuple[str, ...]
    virtual_size: int
    physical_utilisation: int
    type: str
    sharable: bool
    read_only: bool
    other_config: dict[str, str]
    storage_lock: bool
    location: str
    managed: bool
    missing: bool
    parent: str
    xenstore_data: dict[str, str]
    sm_config: dict[str, str]
    is_a_snapshot: bool
    snapshot_of: str
    snapshots: tuple[str, ...]
    snapshot_time: str
    tags: tuple[str, ...]
    allow_caching: bool
    on_boot: str
    metadata_of_pool: str
    metadata_latest: bool
    is_tools_iso: bool
    cbt_enabled: bool

class VGPU(Record):
    uuid: str
    VM: str
    GPU_group: str
    device: str
    currently_attached: bool
    other_config: dict[str, str]
    type: str
    resident_on: str
    scheduled_to_be_resident_on: str
    compatibility_metadata: dict[str, str]
    extra_args: str
    PCI: str

class VGPU_type(Record):
    uuid: str
    vendor_name: str
    model_name: str
    framebuffer_size: int
    max_heads: int
    max_resolution_x: int
    max_resolution_y: int
    size: int
    supported_on_PGPUs: tuple[str, ...]
    enabled_on_PGPUs: tuple[str, ...]
    VGPUs: tuple[str, ...]
    internal_config: dict[str, str]
    supported_on_GPU_groups: tuple[str, ...]
    enabled_on_GPU_groups: tuple[str, ...]
    implementation: str
    identifier: str
    experimental: bool
    compatible_types_in_vm: tuple[str, ...]
    compatible_types_on_pgpu: tuple[str, ...]

class VIF(Record):
    uuid: str
    allowed_operations: tuple[str, ...]
    current_operations: dict[str, str]
    device: str
    network: str
    VM: str
    MAC: str
    MTU: int
    reserved: bool
    other_config: dict[str, str]
    currently_attached: bool
    status_code: int
    status_detail: str
    runtime_properties: dict[str, str]
    qos_algorithm_type: str
    qos_algorithm_params: dict[str, str]
    qos_supported_algorithms: tuple[str, ...]
    metrics: str
    MAC_autogenerated: bool
    locking_mode: str
    ipv4_allowed: tuple[str, ...]
    ipv6_allowed: tuple[str, ...]
    ipv4_configuration_mode: str
    ipv4_addresses: tuple[str, ...]
    ipv4_gateway: str
    ipv6_configuration_mode: str
    ipv6_addresses: tuple[str, ...]
    ipv6_gateway: str
    reserved_pci: str
    trunks: tuple[int, ...]

class VIF_metrics(Record):
    uuid: str
    io_read_kbs: float
    io_write_kbs: float
    last_updated: str
    other_config: dict[str, str]

class VLAN(Record):
    uuid: str
    tagged_PIF: str
    untagged_PIF: str
    tag: int
    other_config: dict[str, str]

class VM(Record):
    uuid: str
    allowed_operations: tuple[str, ...]
    current_operations: dict[str, str]
    name_label: str
    name_description: str
    power_state: str
    user_version: int
    is_a_template: bool
    is_default_template: bool
    suspend_VDI: str
    resident_on: str
    scheduled_to_be_resident_on: str
    affinity: str
    memory_overhead: int
    memory_target: int
    memory_static_max: int
    memory_dynamic_max: int
    memory_dynamic_min: int
    memory_static_min: int
    VCPUs_params: dict[str, str]
    VCPUs_max: int
    VCPUs_at_startup: int
    actions_after_softreboot: str
    actions_after_shutdown: str
    actions_after_reboot: str
    actions_after_crash: str
    consoles: tuple[str, ...]
    VIFs: tuple[str, ...]
    VBDs: tuple[str, ...]
    VUSBs: tuple[str, ...]
    crash_dumps: tuple[str, ...]
    VTPMs: tuple[str, ...]
    PV_bootloader: str
    PV_kernel: str
    PV_ramdisk: str
    PV_args: str
    PV_bootloader_args: str
    PV_legacy_args: str
    HVM_boot_policy: str
    HVM_boot_params: dict[str, str]
    HVM_shadow_multiplier: float
    platform: dict[str, str]
    PCI_bus: str
    other_config: dict[str, str]
    domid: int
    domarch: str
    last_boot_CPU_flags: dict[str, str]
    is_control_domain: bool
    metrics: str
    guest_metrics: str
    last_booted_record: str
    recommendations: str
    xenstore_data: dict[str, str]
    ha_always_run: bool
    ha_restart_priority: str
    is_a_snapshot: bool
    snapshot_of: str
    snapshots: tuple[str, ...]
    snapshot_time: str
    transportable_snapshot_id: str
    blobs: dict[str, str]
    tags: tuple[str, ...]
    blocked_operations: dict[str, str]
    snapshot_info: dict[str, str]
    snapshot_metadata: str
    parent: str
    children: tuple[str, ...]
    bios_strings: dict[str, str]
    protection_policy: str
    is_snapshot_from_vmpp: bool
    snapshot_schedule: str
    is_vmss_snapshot: bool
    appliance: str
    start_delay: int
    shutdown_delay: int
    order: int
    VGPUs: tuple[str, ...]
    attached_PCIs: tuple[str, ...]
    suspend_SR: str
    version: int
    generation_id: str
    hardware_platform_version: int
    has_vendor_device: bool
    requires_reboot: bool
    reference_label: str
    domain_type: str
    NVRAM: dict[str, str]
    pending_guidances: tuple[str, ...]
    recommended_guidances: tuple[str, ...]
    pending_guidances_recommended: tuple[str, ...]
    pending_guidances_full: tuple[str, ...]
    groups: tuple[str, ...]
    secureboot_certificates_state: str
    channel_config: dict[str, str]
    channel_data: dict[str, str]

class VMPP(Record):
    uuid: str
    name_label: str
    name_description: str
    is_policy_enabled: bool
    backup_type: str
    backup_retention_value: int
    backup_frequency: str
    backup_schedule: dict[str, str]
    is_backup_running: bool
    backup_last_run_time: str
    archive_target_type: str
    archive_target_config: dict[str, str]
    archive_frequency: str
    archive_schedule: dict[str, str]
    is_archive_running: bool
    archive_last_run_time: str
    VMs: tuple[str, ...]
    is_alarm_enabled: bool
    alarm_config: dict[str, str]
    recent_alerts: tuple[str, ...]

class VMSS(Record):
    uuid: str
    name_label: str
    name_description: str
    enabled: bool
    type: str
    retained_snapshots: int
    frequency: str
    schedule: dict[str, str]
    last_run_time: str
    VMs: tuple[str, ...]

class VM_appliance(Record):
    uuid: str
    name_label: str
    name_description: str
    allowed_operations: tuple[str, ...]
    current_operations: dict[str, str]
    VMs: tuple[str, ...]

class VM_group(Record):
    uuid: str
    name_label: str
    name_description: str
    placement: str
    VMs: tuple[str, ...]

class VM_guest_metrics(Record):
    uuid: str
    os_version: dict[str, str]
    netbios_name: dict[str, str]
    PV_drivers_version: dict[str, str]
    PV_drivers_up_to_date: bool
    memory: dict[str, str]
    disks: dict[str, str]
    networks: dict[str, str]
    other: dict[str, str]
    last_updated: str
    other_config: dict[str, str]
    live: bool
    can_use_hotplug_vbd: str
    can_use_hotplug_vif: str
    PV_drivers_detected: bool
    services: dict[str, str]

class VM_metrics(Record):
    uuid: str
    memory_actual: int
    VCPUs_number: int
    VCPUs_utilisation: dict[int, float]
    VCPUs_CPU: dict[int, int]
    VCPUs_params: dict[str, str]
    VCPUs_flags: dict[int, tuple[str, ...]]
    state: tuple[str, ...]
    start_time: str
    install_time: str
    last_updated: str
    other_config: dict[str, str]
    hvm: bool
    nested_virt: bool
    nomigrate: bool
    current_domain_type: str
    numa_optimised: bool
    numa_nodes: int
    numa_node_memory: dict[int, int]

class VTPM(Record):
    uuid: str
    allowed_operations: tuple[str, ...]
    current_operations: dict[str, str]
    VM: str
    backend: str
    persistence_backend: str
    is_unique: bool
    is_protected: bool
    contents: str

class VUSB(Record):
    uuid: str
    allowed_operations: tuple[str, ...]
    current_operations: dict[str, str]
    VM: str
    USB_group: str
    other_config: dict[str, str]
    currently_attached: bool

class Auth(Record):
    ...

class Blob(Record):
    uuid: str
    name_label: str
    name_description: str
    size: int
    public: bool
    last_updated: str
    mime_type: str

class Console(Record):
    uuid: str
    protocol: str
    location: str
    VM: str
    other_config: dict[str, str]
    port: int

class Crashdump(Record):
    uuid: str
    VM: str
    VDI: str
    other_config: dict[str, str]

class Data_source(Record):
    name_label: str
    name_description: str
    enabled: bool
    standard: bool
    units: str
    min: float
    max: float
    value: float

class Event(Record):
    id: int
    timestamp: str
    operation: str
    ref: str
    obj_uuid: str

class Host(Record):
    uuid: str
    name_label: str
    name_description: str
    memory_overhead: int
    allowed_operations: tuple[str, ...]
    current_operations: dict[str, str]
    API_version_major: int
    API_version_minor: int
    API_version_vendor: str
    API_version_vendor_implementation: dict[str, str]
    enabled: bool
    software_version: dict[str, str]
    other_config: dict[str, str]
    capabilities: tuple[str, ...]
    cpu_configuration: dict[str, str]
    sched_policy: str
    supported_bootloaders: tuple[str, ...]
    resident_VMs: tuple[str, ...]
    logging: dict[str, str]
    PIFs: tuple[str, ...]
    suspend_image_sr: str
    crash_dump_sr: str
    crashdumps: tuple[str, ...]
    patches: tuple[str, ...]
    updates: tuple[str, ...]
    PBDs: tuple[str, ...]
    host_CPUs: tuple[str, ...]
    cpu_info: dict[str, str]
    hostname: str
    address: str
    metrics: str
    license_params: dict[str, str]
    boot_free_mem: int
    ha_statefiles: tuple[str, ...]
    ha_network_peers: tuple[str, ...]
    blobs: dict[str, str]
    tags: tuple[str, ...]
    external_auth_type: str
    external_auth_service_name: str
    external_auth_configuration: dict[str, str]
    edition: str
    license_server: dict[str, str]
    bios_strings: dict[str, str]
    power_on_mode: str
    power_on_config: dict[str, str]
    local_cache_sr: str
    chipset_info: dict[str, str]
    PCIs: tuple[str, ...]
    PGPUs: tuple[str, ...]
    PUSBs: tuple[str, ...]
    ssl_legacy: bool
    guest_VCPUs_params: dict[str, str]
    display: str
    virtual_hardware_platform_versions: tuple[int, ...]
    control_domain: str
    updates_requiring_reboot: tuple[str, ...]
    features: tuple[str, ...]
    iscsi_iqn: str
    multipathing: bool
    uefi_certificates: str
    certificates: tuple[str, ...]
    editions: tuple[str, ...]
    pending_guidances: tuple[str, ...]
    tls_verification_enabled: bool
    last_software_update: str
    https_only: bool
    recommended_guidances: tuple[str, ...]
    latest_synced_updates_applied: str
    numa_affinity_policy: str
    pending_guidances_recommended: tuple[str, ...]
    pending_guidances_full: tuple[str, ...]
    last_update_hash: str
    ssh_enabled: bool
    ssh_enabled_timeout: int
    ssh_expiry: str
    console_idle_timeout: int
    ssh_auto_mode: bool
    max_cstate: str
    secure_boot: bool
    ntp_mode: str
    ntp_custom_servers: tuple[str, ...]
    timezone: str

class Host_cpu(Record):
    uuid: str
    host: str
    number: int
    vendor: str
    speed: int
    modelname: str
    family: int
    model: int
    stepping: str
    flags: str
    features: str
    utilisation: float
    other_config: dict[str, str]

class Host_crashdump(Record):
    uuid: str
    host: str
    timestamp: str
    size: int
    filename: str
    other_config: dict[str, str]

class Host_metrics(Record):
    uuid: str
    memory_total: int
    memory_free: int
    live: bool
    last_updated: str
    other_config: dict[str, str]

class Host_patch(Record):
    uuid: str
    name_label: str
    name_description: str
    version: str
    host: str
    filename: str
    applied: bool
    timestamp_applied: str
    size: int
    pool_patch: str
    other_config: dict[str, str]

class Message(Record):
    uuid: str
    name: str
    priority: int
    cls: str
    obj_uuid: str
    timestamp: str
    body: str

class Network(Record):
    uuid: str
    name_label: str
    name_description: str
    allowed_operations: tuple[str, ...]
    current_operations: dict[str, str]
    VIFs: tuple[str, ...]
    PIFs: tuple[str, ...]
    MTU: int
    other_config: dict[str, str]
    bridge: str
    managed: bool
    blobs: dict[str, str]
    tags: tuple[str, ...]
    default_locking_mode: str
    assigned_ips: dict[str, str]
    purpose: tuple[str, ...]

class Network_sriov(Record):
    uuid: str
    physical_PIF: str
    logical_PIF: str
    requires_reboot: bool
    configuration_mode: str

class Pool(Record):
    uuid: str
    name_label: str
    name_description: str
    master: str
    default_SR: str
    suspend_image_SR: str
    crash_dump_SR: str
    other_config: dict[str, str]
    ha_enabled: bool
    ha_configuration: dict[str, str]
    ha_statefiles: tuple[str, ...]
    ha_host_failures_to_tolerate: int
    ha_plan_exists_for: int
    ha_allow_overcommit: bool
    ha_overcommitted: bool
    blobs: dict[str, str]
    tags: tuple[str, ...]
    gui_config: dict[str, str]
    health_check_config: dict[str, str]
    wlb_url: str
    wlb_username: str
    wlb_password: str
    wlb_enabled: bool
    wlb_verify_cert: bool
    redo_log_enabled: bool
    redo_log_vdi: str
    vswitch_controller: str
    restrictions: dict[str, str]
    metadata_VDIs: tuple[str, ...]
    ha_cluster_stack: str
    allowed_operations: tuple[str, ...]
    current_operations: dict[str, str]
    guest_agent_config: dict[str, str]
    cpu_info: dict[str, str]
    policy_no_vendor_device: bool
    live_patching_disabled: bool
    igmp_snooping_enabled: bool
    uefi_certificates: str
    custom_uefi_certificates: str
    is_psr_pending: bool
    tls_verification_enabled: bool
    repositories: tuple[str, ...]
    client_certificate_auth_enabled: bool
    client_certificate_auth_name: str
    repository_proxy_url: str
    repository_proxy_username: str
    repository_proxy_password: str
    migration_compression: bool
    coordinator_bias: bool
    local_auth_max_threads: int
    ext_auth_max_threads: int
    ext_auth_cache_enabled: bool
    ext_auth_cache_size: int
    ext_auth_cache_expiry: int
    telemetry_uuid: str
    telemetry_frequency: str
    telemetry_next_collection: str
    last_update_sync: str
    update_sync_frequency: str
    update_sync_day: int
    update_sync_enabled: bool
    recommendations: dict[str, str]
    license_server: dict[str, str]
    ha_reboot_vm_on_internal_shutdown: bool
    limit_console_sessions: bool
    vm_console_idle_timeout: int
    auto_update_vm_secureboot_certificates: bool

class Pool_patch(Record):
    uuid: str
    name_label: str
    name_description: str
    version: str
    filename: str
    size: int
    pool_applied: bool
    host_patches: tuple[str, ...]
    after_apply_guidance: tuple[str, ...]
    pool_update: str
    other_config: dict[str, str]

class Pool_update(Record):
    uuid: str
    name_label: str
    name_description: str
    version: str
    installation_size: int
    key: str
    after_apply_guidance: tuple[str, ...]
    vdi: str
    hosts: tuple[str, ...]
    other_config: dict[str, str]
    enforce_homogeneity: bool

class Probe_result(Record):
    configuration: dict[str, str]
    complete: bool
    sr: Any
    extra_info: dict[str, str]

class Role(Record):
    uuid: str
    name_label: str
    name_description: str
    subroles: tuple[str, ...]
    is_internal: bool

class Secret(Record):
    uuid: str
    value: str
    other_config: dict[str, str]

class Session(Record):
    uuid: str
    this_host: str
    this_user: str
    last_active: str
    pool: bool
    other_config: dict[str, str]
    is_local_superuser: bool
    subject: str
    validation_time: str
    auth_user_sid: str
    auth_user_name: str
    rbac_permissions: tuple[str, ...]
    tasks: tuple[str, ...]
    parent: str
    originator: str
    client_certificate: bool

class Sr_stat(Record):
    uuid: Any
    name_label: str
    name_description: str
    free_space: int
    total_space: int
    clustered: bool
    health: str

class Subject(Record):
    uuid: str
    subject_identifier: str
    other_config: dict[str, str]
    roles: tuple[str, ...]

class Task(Record):
    uuid: str
    name_label: str
    name_description: str
    allowed_operations: tuple[str, ...]
    current_operations: dict[str, str]
    created: str
    finished: str
    status: str
    session: str
    resident_on: str
    progress: float
    externalpid: int
    stunnelpid: int
    forwarded: bool
    forwarded_to: str
    type: str
    result: str
    error_info: tuple[str, ...]
    other_config: dict[str, str]
    subtask_of: str
    subtasks: tuple[str, ...]
    backtrace: str

class Tunnel(Record):
    uuid: str
    access_PIF: str
    transport_PIF: str
    status: dict[str, str]
    other_config: dict[str, str]
    protocol: str

class User(Record):
    uuid: str
    short_name: str
    fullname: str
    other_config: dict[str, str]

class Vdi_nbd_server_info(Record):
    exportname: str
    address: str
    port: int
    cert: str
    subject: str
