//! What the known answers of several providers share.

/// The key of the known answers that are not upstream's: the bytes 00 to 1f. For tests only.
pub const KEY_32: [u8; 32] = [
    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30,
    31,
];

/// Bytes from hexadecimal digits.
pub fn hex(digits: &str) -> Vec<u8> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).expect("a hexadecimal digit") as u8;
    digits.as_bytes().chunks(2).map(|pair| digit(&pair[0]) << 4 | digit(&pair[1])).collect()
}

/// A whole KMS v2 value of source type 0, written by Kubernetes 1.27.0: `TestKMSv2ProviderLegacyData` in
/// `kubernetes/kubernetes`, `test/integration/controlplane/transformation/kmsv2_transformation_test.go`.
pub const LEGACY_KEY: &str = "6b38733a656e633a6b6d733a76323a6b6d732d70726f76696465723a0a8a03b0c699dc01ca9a3b000000008c800bf01d4b6f7b30\
    0bb5d5c5831ab50ecfd75665ede982b8df45ed4d6bcf2115c00b09825768209e8f1b5c3908a480026df450147aeef78c1a846e35\
    fd478376230ed40c83597748e11cbf12c61bba8b7208827af8db60a75d50b1e6214c628db8491a454ca0ae2bbe15528e9b0634f6\
    50b63b9fa68d96b201a18ee461df2f9075de369ac2cdbb62882b16983de903ddd74876430ae58c76057e0aab585f4e9a847770a8\
    130f82593978ed8915b9e1eaa690c660520a3004f2a6d1a5850a6bf4cfe4756c1c2a5b4112a0d9f2b52182e400a44c2726f5706c\
    6e22e03d0c5be1b0553937117cda4e6bc33dc2f2853c371e01b8a9f489db7ee18ce11f05424057cabc530ae8819b4c598624f601\
    dd9dcd1de9025df469dafac20e5572c544cabd646213befe1cc5e184ccdf26936a1e4b04ba0616850e1fca089006114b9d5b0d56\
    e845d528910c6ed4109c481cdc9d5894c881351b8cbb7af9486f7b1d11329046e7d868a8a1f68c8c76cab231f92382a3be376564\
    d914f306ffb7dfab691201311a2c676166497677543041536f4b645a2f44314c32536c4837334c554d6a3571613368726f6c6a66\
    53353177633d22320a1b6c6f63616c2d6b656b2e6b6d732e6b756265726e657465732e696f1213656e637279707465642d6c6f63\
    616c2d6b656b";

/// The etcd key of [`LEGACY_KEY`].
pub const LEGACY_KEY_AT: &[u8] =
    b"/43da1478-5e9c-4ef3-a92a-2b19d540c8a5/registry/secrets/kms-v2-legacy-data/dek-source-aes-gcm-key";

/// A whole KMS v2 value of source type 1, written by Kubernetes 1.28.0; from the same test.
pub const LEGACY_SEED: &str = "6b38733a656e633a6b6d733a76323a6b6d732d70726f76696465723a0ad103120f87aea2a2f54a1106d0be8a81b615df3448a3b7\
    69935e29e569e27ffd6fee221730b70aa00bece0fa092309c696f6c7a77701b9abb3f4dfec9e4a9524265a3d8a774163a5b23b09\
    d5f905c145298bb814c9da147b490d563fe53af0424d9badaa486e3e572f51a3f5bae7cb9a0ae722a75c708cba32f2b0783cc484\
    889af1b53a643d7ae3c32603996d96e75ce3a3d769b20c8467f934d20cd67eedacf81bc6282c5bd1ffba89c8874402293a77544d\
    3132b5fd6cd2f2851230d3d961616bcedd49d6a50f6b32f649d0f9c2da0bc597d7d7bb83d6f71abf1369488fe4b323f3dfc82479\
    0d4c28465c587486bbe54b883d92e904f7301e093eac3b9ee6f02bdb99341d1a5639d5842d67f3c75a00f7330ee7a6cfc4fce0b2\
    1fa0bb1a81b3e4d7a67fc60894cd89ad40ac8101350fe841e942fb32816f9c3f2a0c8c15a82922e8ff8d38d5214f17c5e38d8083\
    d3c2b4ca313bf7b0f49078a6019585c0aff682516babc1823c4493cf0ddbdf1c941751fa53e6cbd458c6bf801dc41c9d50373482\
    4a4b0b79e929bc6859becc7ce497dd3c3b33904a07ee23b279e30960efef1f226b8b96a098d9ff73de26b7a60ef17f32cd8562e3\
    da3522635c4be231a2ec601be552e66a08401837e1db04f6624e4f0e1201311a2c2f2b576e4b5851454d2f416858494359524e42\
    65476b2b575375422b374f427553594a54625036365a79633d22320a1b6c6f63616c2d6b656b2e6b6d732e6b756265726e657465\
    732e696f1213656e637279707465642d6c6f63616c2d6b656b2801";

/// The etcd key of [`LEGACY_SEED`].
pub const LEGACY_SEED_AT: &[u8] =
    b"/43da1478-5e9c-4ef3-a92a-2b19d540c8a5/registry/secrets/kms-v2-legacy-data/dek-source-hkdf-sha256-xnonce-aes-gcm-seed";
